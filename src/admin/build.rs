//! Tells cargo to rebuild when files are added to or removed from `image/`, which the crate embeds.

fn main() {
    println!("cargo:rerun-if-changed=../../image");
}
