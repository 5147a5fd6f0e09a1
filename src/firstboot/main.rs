//! The agent in the image.

#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    hanode_firstboot::commands::main()
}
