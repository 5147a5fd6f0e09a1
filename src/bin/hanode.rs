//! The operator's tool.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["lab-node", role, dir, node] => hanode::lab::node::main(role, Path::new(dir), node),
        _ => Err(anyhow::anyhow!("unknown verb")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hanode: {error:#}");
            ExitCode::FAILURE
        }
    }
}
