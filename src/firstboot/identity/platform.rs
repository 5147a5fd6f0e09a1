//! The machine's tags from the platform itself, for a cloud-init that is too old to save it: EC2's tags before
//! 22.2, VMware's guestinfo before 21.3. Queried only if cloud-init or the firmware names that platform.

use super::metadata::{KEY, Metadata, RESTORE_KEY, short_text};
use anyhow::{Context, Result, bail};
use hanode_util::file_tree::below;
use hanode_util::user_error::UserError;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// EC2's metadata service.
const EC2_SERVICE: &str = "http://169.254.169.254";
const RPCTOOL: &str = "/usr/bin/vmware-rpctool";
/// For one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// Adds the tags to cloud-init's metadata if they are missing there. Fails if the platform does not answer within
/// `timeout`.
pub fn complete(root: &Path, metadata: &mut Option<Metadata>, timeout: Duration) -> Result<()> {
    let found = metadata.clone().unwrap_or_default();
    if found.node.is_some() && found.restore.is_some() {
        return Ok(());
    }
    let vendor = std::fs::read_to_string(below(root, "/sys/class/dmi/id/sys_vendor")).unwrap_or_default();
    let named = metadata.as_ref().and_then(|m| m.platform.as_deref());
    let query = |key: &str| match () {
        // A cloud-init that saves one tag saves them all.
        () if found.node.is_some() && named == Some("ec2") => Ok(None),
        () if named == Some("ec2") || vendor.starts_with("Amazon EC2") => ec2(EC2_SERVICE, key, timeout),
        () if vendor.starts_with("VMware") => vmware(&below(root, RPCTOOL), key),
        () => Ok(None),
    };
    let node = if found.node.is_none() { query(KEY)? } else { None };
    let restore = if found.restore.is_none() { query(RESTORE_KEY)? } else { None };
    if node.is_some() || restore.is_some() {
        let completed = metadata.get_or_insert_default();
        completed.node = found.node.or(node);
        completed.restore = found.restore.or(restore);
    }
    Ok(())
}

/// The instance's tag; `None` if it has none, or if tags in instance metadata are not enabled.
pub fn ec2(service: &str, key: &str, timeout: Duration) -> Result<Option<String>> {
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(REQUEST_TIMEOUT))
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None);
    let agent: ureq::Agent = config.build().into();
    let start = Instant::now();
    loop {
        match request_ec2_tag(&agent, service, key) {
            Ok(tag) => return Ok(tag),
            Err(why) if start.elapsed() >= timeout => {
                return Err(why.context(format!(
                    "the metadata service at {service} did not return this instance's tags within {} s",
                    timeout.as_secs()
                )));
            }
            Err(_) => sleep(Duration::from_millis(500)),
        }
    }
}

fn request_ec2_tag(agent: &ureq::Agent, service: &str, key: &str) -> Result<Option<String>> {
    let ttl = "X-aws-ec2-metadata-token-ttl-seconds";
    let token = agent.put(format!("{service}/latest/api/token")).header(ttl, "60").send_empty();
    let token =
        body(token.context("requesting a token")?)?.context("the service has no session tokens (404)")?;
    let tag = agent.get(format!("{service}/latest/meta-data/tags/instance/{key}"));
    let tag = tag.header("X-aws-ec2-metadata-token", token.trim()).call().context("requesting the tag")?;
    Ok(body(tag)?.as_deref().and_then(short_text))
}

/// The body; `None` for status 404.
fn body(mut answer: ureq::http::Response<ureq::Body>) -> Result<Option<String>> {
    match answer.status().as_u16() {
        200 => Ok(Some(answer.body_mut().with_config().limit(4 << 10).read_to_string()?)),
        404 => Ok(None),
        status => bail!("status {status}"),
    }
}

/// A value below `guestinfo` of this virtual machine, as its administrator set it.
pub(crate) fn vmware(tool: &Path, key: &str) -> Result<Option<String>> {
    if !tool.exists() {
        bail!(UserError::with_help(
            format!("{RPCTOOL} is missing, so this machine's guestinfo cannot be read"),
            "install open-vm-tools",
        ));
    }
    let mut rpctool = Command::new(tool);
    rpctool.arg(format!("info-get guestinfo.{key}")).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child =
        rpctool.stderr(Stdio::null()).spawn().with_context(|| format!("running {}", tool.display()))?;
    let until = Instant::now() + REQUEST_TIMEOUT;
    let status = loop {
        match child.try_wait()? {
            Some(status) => break status,
            None if Instant::now() >= until => {
                let _ = child.kill();
                let _ = child.wait();
                bail!("{RPCTOOL} did not answer within {} s", REQUEST_TIMEOUT.as_secs());
            }
            None => sleep(Duration::from_millis(20)),
        }
    };
    let mut output = String::new();
    if let Some(out) = child.stdout.take() {
        out.take(4 << 10).read_to_string(&mut output).context("guestinfo is not UTF-8")?;
    }
    // The tool fails if the value is not set.
    Ok(if status.success() { short_text(&output) } else { None })
}
