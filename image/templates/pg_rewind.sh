#!/bin/sh
# written by hanode for {{ node.name }}; edits are overwritten
# Patroni runs this instead of pg_rewind. Data that cannot be rewound is moved aside, so that Patroni finds no data and
# clones. Writes that the cluster does not have can still be recovered from it; the two newest such directories are kept.
bin={{ paths.postgres_bin }}
data={{ paths.postgres_data }}

"$bin/pg_rewind" "$@"
code=$?
case " $* " in
*" -D $data "*) [ $code -ne 0 ] || exit 0 ;;
*) exit $code ;;
esac

# If the leader has changed meanwhile and the control file is intact, the next attempt may succeed.
source=
previous=
for word; do
    [ "$previous" != --source-server ] || source=$word
    previous=$word
done
leads=$("$bin/psql" --no-psqlrc --tuples-only --no-align --dbname="$source" --command='SELECT NOT pg_is_in_recovery()')
if [ "$leads" != t ] && "$bin/pg_controldata" "$data" > /dev/null; then
    exit $code
fi

stamp=$(date +%s)
# Tablespaces are outside the data directory and are moved aside too, so that the clone finds their places empty.
for link in "$data"/pg_tblspc/*; do
    [ -L "$link" ] || continue
    place=$(readlink "$link")
    mv "$place" "$place.aside-$stamp" && ln -sfn "$place.aside-$stamp" "$link"
done
mv "$data" "$data.aside-$stamp" || exit $code
echo "$data could not be rewound and was moved aside to $data.aside-$stamp"

ls -d "$data".aside-* | sort | head -n -2 | while read -r old; do
    echo "removing $old: only the two newest are kept"
    for link in "$old"/pg_tblspc/*; do
        [ ! -L "$link" ] || rm -rf "$(readlink "$link")"
    done
    rm -rf "$old"
done
exit $code
