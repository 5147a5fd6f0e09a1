//! The program embeds the folder `image/`; cargo has to look there for files that came or went.

fn main() {
    println!("cargo:rerun-if-changed=../../image");
}
