//! A loopback interface for tests that connect to themselves, also in a network namespace that has none.

use std::net::{TcpListener, TcpStream};
use std::process::Command;

/// Runs a test with a loopback interface that is up. Where it is down, as `unshare --net` leaves it, the test program
/// runs this one test again in a user and network namespace of its own.
pub fn with_loopback(test: &str, body: impl FnOnce()) {
    if is_up() {
        return body();
    }
    let mut again = Command::new("unshare");
    again.args(["--user", "--map-root-user", "--net", "sh", "-c", "ip link set lo up && exec \"$0\" \"$@\""]);
    again.arg(std::env::current_exe().expect("the path of the test program")).args(["--exact", test]);
    let output = again.output().expect("run unshare");
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

fn is_up() -> bool {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind to a free port");
    TcpStream::connect(listener.local_addr().expect("the address of the listener")).is_ok()
}
