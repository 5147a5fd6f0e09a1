//! The operator's tool.

fn main() -> std::process::ExitCode {
    hanode::cli::main()
}
