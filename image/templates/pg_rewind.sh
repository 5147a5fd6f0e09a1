#!/bin/sh
# written by hanode for {{ node.name }}; edits are overwritten
# What Patroni runs as pg_rewind. Data that cannot be rewound is kept, beside its place: Patroni finds that empty and
# clones. What the cluster does not have is still there to be looked at; the two newest such directories stay.
bin={{ paths.postgres_bin }}
data={{ paths.postgres_data }}

"$bin/pg_rewind" "$@"
code=$?
case " $* " in
*" -D $data "*) [ $code -ne 0 ] || exit 0 ;;
*) exit $code ;;
esac

# Where the leader has gone meanwhile, the next attempt may do it, as long as the control file is whole.
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
# A tablespace lies elsewhere and goes along, so that the clone finds its place empty too.
for link in "$data"/pg_tblspc/*; do
    [ -L "$link" ] || continue
    place=$(readlink "$link")
    mv "$place" "$place.aside-$stamp" && ln -sfn "$place.aside-$stamp" "$link"
done
mv "$data" "$data.aside-$stamp" || exit $code
echo "$data could not be rewound and is kept as $data.aside-$stamp"

ls -d "$data".aside-* | sort | head -n -2 | while read -r old; do
    echo "removing $old: two newer ones are kept"
    for link in "$old"/pg_tblspc/*; do
        [ ! -L "$link" ] || rm -rf "$(readlink "$link")"
    done
    rm -rf "$old"
done
exit $code
