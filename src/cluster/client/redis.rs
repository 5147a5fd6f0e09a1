//! A minimal client of the Redis protocol (RESP2), for servers and Sentinels.

use super::deadline::Deadline;
use super::tls::{Credentials, TlsStream, connect};
use anyhow::{Context, Result, bail, ensure};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::IpAddr;
use std::time::Duration;

/// Upper bounds on untrusted input.
const MAX_REPLY: u64 = 8 << 20;
const MAX_LINE: u64 = 64 << 10;
const MAX_BULK: usize = 4 << 20;
const MAX_ITEMS: usize = 4096;
const MAX_DEPTH: usize = 4;
/// A server that answered another command just before answers this fast, unless its clients are paused.
const PAUSED_AFTER: Duration = Duration::from_millis(1500);

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Nil,
    Text(String),
    Number(i64),
    List(Vec<Value>),
    /// An error reply (`NOAUTH …`, `NOGOODSLAVE …`).
    Error(String),
}

enum Stream {
    Tls(Box<TlsStream>),
    Plain(Deadline),
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Stream::Tls(s) => s.read(buffer),
            Stream::Plain(s) => s.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        match self {
            Stream::Tls(s) => s.write(buffer),
            Stream::Plain(s) => s.write(buffer),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Stream::Tls(s) => s.flush(),
            Stream::Plain(s) => s.flush(),
        }
    }
}

impl Stream {
    fn socket(&mut self) -> &mut Deadline {
        match self {
            Stream::Tls(s) => &mut s.sock,
            Stream::Plain(s) => s,
        }
    }
}

/// Name and password; without a name, those of the user `default`.
pub(crate) struct Login<'a> {
    pub(crate) user: Option<&'a str>,
    pub(crate) password: &'a str,
}

pub struct RedisClient {
    stream: BufReader<Stream>,
    /// Time limit of one command and its reply.
    timeout: Duration,
}

impl RedisClient {
    /// `credentials` is `None` if the spec disables TLS for Redis, `leaf` the server's certificate. `timeout` limits
    /// connecting, and each exchange.
    pub(crate) fn connect(
        credentials: Option<&Credentials>,
        leaf: &str,
        address: IpAddr,
        port: u16,
        login: &Login,
        timeout: Duration,
    ) -> Result<Self> {
        let stream = match credentials {
            Some(credentials) => Stream::Tls(Box::new(credentials.connect_to(leaf, address, port, timeout)?)),
            None => Stream::Plain(Deadline::within(connect(address, port, timeout)?, timeout)),
        };
        let mut redis = RedisClient { stream: BufReader::new(stream), timeout };
        match login.user {
            // A server that was started by an older hanode does not know the user.
            Some(user) => redis.query(&["AUTH", user, login.password]).with_context(|| {
                format!("logging in as {user}; a Redis without this user has the files of an older hanode, or other secrets")
            })?,
            None => redis.query(&["AUTH", login.password]).context("authenticating")?,
        };
        Ok(redis)
    }

    /// Sends a command and returns its reply; an error reply becomes an error.
    pub fn query(&mut self, args: &[&str]) -> Result<Value> {
        match self.command(args)? {
            Value::Error(message) => bail!("{}: {message}", args[0]),
            value => Ok(value),
        }
    }

    /// Whether the server sends something before the timeout.
    fn has_input(&mut self) -> Result<bool> {
        self.stream.get_mut().socket().renew(self.timeout);
        match self.stream.fill_buf() {
            Ok([]) => bail!("the server closed the connection"),
            Ok(_) => Ok(true),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn send(&mut self, args: &[&str]) -> Result<()> {
        let mut request = format!("*{}\r\n", args.len());
        for arg in args {
            request += &format!("${}\r\n{arg}\r\n", arg.len());
        }
        let stream = self.stream.get_mut();
        stream.socket().renew(self.timeout);
        stream.write_all(request.as_bytes())?;
        Ok(stream.flush()?)
    }

    /// Sends a command and returns its reply, which may be a [`Value::Error`].
    pub fn command(&mut self, args: &[&str]) -> Result<Value> {
        self.send(args)?;
        read_value(&mut (&mut self.stream).take(MAX_REPLY), MAX_DEPTH)
    }

    /// After this, the connection only receives messages.
    pub(crate) fn subscribe(&mut self, channels: &[&str]) -> Result<()> {
        self.query(&[&["SUBSCRIBE"], channels].concat()).map(drop)
    }

    /// Channel and text of the next message; `None` for other replies. After each timeout without one it asks whether the
    /// server is there: a connection whose end was lost would stay silent for ever.
    pub(crate) fn next_message(&mut self) -> Result<Option<(String, String)>> {
        if !self.has_input()? {
            self.send(&["PING"])?;
            ensure!(self.has_input()?, "the server does not answer PING");
        }
        let Value::List(items) = read_value(&mut (&mut self.stream).take(MAX_REPLY), MAX_DEPTH)? else {
            return Ok(None);
        };
        Ok(match items.as_slice() {
            [Value::Text(kind), Value::Text(channel), Value::Text(text)] if kind == "message" => {
                Some((channel.clone(), text.clone()))
            }
            _ => None,
        })
    }

    /// `INFO section` as key and value pairs.
    pub fn info(&mut self, section: &str) -> Result<BTreeMap<String, String>> {
        info_fields(&self.query(&["INFO", section])?)
    }
}

pub(super) fn info_fields(reply: &Value) -> Result<BTreeMap<String, String>> {
    let Value::Text(text) = reply else { bail!("unexpected reply to INFO: {reply:?}") };
    let pairs = text.lines().filter_map(|line| line.split_once(':'));
    Ok(pairs.map(|(key, value)| (key.to_string(), value.trim_end().to_string())).collect())
}

fn read_value(from: &mut impl BufRead, depth: usize) -> Result<Value> {
    ensure!(depth > 0, "reply is nested too deeply");
    let line = read_line(from)?;
    let (kind, rest) = line.split_at_checked(1).context("empty reply")?;
    match kind {
        "+" => Ok(Value::Text(rest.into())),
        "-" => Ok(Value::Error(rest.into())),
        ":" => Ok(Value::Number(rest.parse().context("bad number")?)),
        "$" => match rest.parse::<i64>().context("bad length")? {
            -1 => Ok(Value::Nil),
            length => read_bulk(from, usize::try_from(length).context("bad length")?),
        },
        "*" => match rest.parse::<i64>().context("bad count")? {
            -1 => Ok(Value::Nil),
            count => {
                let count = usize::try_from(count).context("bad count")?;
                ensure!(count <= MAX_ITEMS, "reply of {count} items is too long");
                (0..count).map(|_| read_value(from, depth - 1)).collect::<Result<_>>().map(Value::List)
            }
        },
        _ => bail!("not the Redis protocol"),
    }
}

fn read_line(from: &mut impl BufRead) -> Result<String> {
    let mut line = Vec::new();
    from.take(MAX_LINE).read_until(b'\n', &mut line)?;
    ensure!(line.ends_with(b"\r\n"), "reply is truncated");
    line.truncate(line.len() - 2);
    String::from_utf8(line).context("reply is not UTF-8")
}

fn read_bulk(from: &mut impl BufRead, length: usize) -> Result<Value> {
    ensure!(length <= MAX_BULK, "reply of {length} bytes is too long");
    let mut bytes = vec![0; length + 2];
    from.read_exact(&mut bytes)?;
    bytes.truncate(length);
    Ok(Value::Text(String::from_utf8_lossy(&bytes).into_owned()))
}

impl RedisClient {
    /// Whether clients wait that write, as after `CLIENT PAUSE`. Redis does not report it; a message to a channel that
    /// nobody uses waits with them. After `true` the connection is of no use.
    pub fn is_paused(&mut self) -> Result<bool> {
        self.timeout = PAUSED_AFTER;
        match self.command(&["PUBLISH", "hanode", ""]) {
            Ok(_) => Ok(false),
            Err(error) if is_timeout(&error) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// All settings with which the server runs, as it prints them.
    pub fn config(&mut self) -> Result<BTreeMap<String, String>> {
        let Value::List(items) = self.query(&["CONFIG", "GET", "*"])? else {
            bail!("unexpected reply to CONFIG GET")
        };
        let pair = |pair: &[Value]| match pair {
            [Value::Text(name), Value::Text(value)] => Some((name.clone(), value.clone())),
            _ => None,
        };
        Ok(items.chunks(2).filter_map(pair).collect())
    }

    /// The number of keys in all databases.
    pub fn keys(&mut self) -> Result<u64> {
        let keys = |database: &String| database.strip_prefix("keys=")?.split(',').next()?.parse::<u64>().ok();
        Ok(self.info("keyspace")?.values().filter_map(keys).sum())
    }

    /// The names of all users.
    pub fn users(&mut self) -> Result<Vec<String>> {
        self.texts(&["ACL", "USERS"])
    }

    /// All users with their rules, as the lines of a configuration file.
    pub fn user_rules(&mut self) -> Result<Vec<String>> {
        self.texts(&["ACL", "LIST"])
    }

    fn texts(&mut self, command: &[&str]) -> Result<Vec<String>> {
        let Value::List(items) = self.query(command)? else {
            bail!("unexpected reply to {}", command.join(" "))
        };
        let text = |item| match item {
            Value::Text(text) => Some(text),
            _ => None,
        };
        Ok(items.into_iter().filter_map(text).collect())
    }
}

fn is_timeout(error: &anyhow::Error) -> bool {
    let kind = error.root_cause().downcast_ref::<std::io::Error>().map(std::io::Error::kind);
    matches!(kind, Some(ErrorKind::WouldBlock | ErrorKind::TimedOut))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(bytes: &[u8]) -> Result<Value> {
        read_value(&mut std::io::Cursor::new(bytes), MAX_DEPTH)
    }

    #[test]
    fn replies_are_parsed() {
        assert_eq!(parse(b"+OK\r\n").ok(), Some(Value::Text("OK".into())));
        assert_eq!(parse(b"-NOAUTH x\r\n").ok(), Some(Value::Error("NOAUTH x".into())));
        let list = parse(b"*2\r\n$2\r\nip\r\n:7\r\n").ok();
        assert_eq!(list, Some(Value::List(vec![Value::Text("ip".into()), Value::Number(7)])));
        assert_eq!(parse(b"$-1\r\n").ok(), Some(Value::Nil));
    }

    #[test]
    fn hostile_replies_are_errors() {
        for bytes in [
            &b"$999999999\r\n"[..],
            b"*99999999\r\n",
            b"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n+x\r\n",
            b"HTTP/1.1 200\r\n",
            b"+x",
        ] {
            assert!(parse(bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_reply_that_arrives_too_slowly_times_out() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            while socket.write_all(b"+").is_ok() {
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let (start, timeout) = (std::time::Instant::now(), Duration::from_millis(300));
        assert!(
            RedisClient::connect(
                None,
                "redis",
                [127, 0, 0, 1].into(),
                port,
                &Login { user: None, password: "secret" },
                timeout
            )
            .is_err()
        );
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    }

    /// Answers the commands in `replies`, one read each, and then nothing.
    fn server(replies: &'static [&'static str]) -> RedisClient {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            for reply in replies {
                assert!(socket.read(&mut [0; 4096]).unwrap() > 0);
                socket.write_all(reply.as_bytes()).unwrap();
            }
            std::thread::sleep(Duration::from_secs(5));
        });
        let login = Login { user: None, password: "secret" };
        let timeout = Duration::from_millis(200);
        RedisClient::connect(None, "redis", [127, 0, 0, 1].into(), port, &login, timeout).unwrap()
    }

    #[test]
    fn a_subscription_ends_once_its_server_is_silent() {
        let mut redis = server(&[
            "+OK\r\n",
            "*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n",
            "*2\r\n$4\r\npong\r\n$0\r\n\r\n",
        ]);
        redis.subscribe(&["c"]).unwrap();
        assert_eq!(redis.next_message().unwrap(), None, "it has answered");
        let silent = redis.next_message().unwrap_err().to_string();
        assert_eq!(silent, "the server does not answer PING");
    }

    proptest! {
        #[test]
        fn parsing_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            let _ = parse(&bytes);
        }
    }
}
