//! The service in the image.

fn main() -> std::process::ExitCode {
    hanode::boot::commands::main()
}
