//! A machine's tag from the platform itself, where cloud-init is too old to pass it on: EC2's tags before
//! 22.2, VMware's guestinfo before 21.3. Asked only where cloud-init or the firmware names that platform.

use super::metadata::{KEY, Metadata, word};
use anyhow::{Context, Result, bail};
use hanode_util::file_tree::below;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

/// EC2's metadata service.
const EC2: &str = "http://169.254.169.254";
const RPCTOOL: &str = "/usr/bin/vmware-rpctool";
/// For one question.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Adds the tag to what cloud-init said, if it is missing there. An error: the platform should know and
/// did not say within `patience`.
pub fn complete(root: &Path, metadata: &mut Option<Metadata>, patience: Duration) -> Result<()> {
    if metadata.as_ref().is_some_and(|m| m.node.is_some()) {
        return Ok(());
    }
    let vendor = std::fs::read_to_string(below(root, "/sys/class/dmi/id/sys_vendor")).unwrap_or_default();
    let named = metadata.as_ref().and_then(|m| m.platform.as_deref());
    let node = if named == Some("ec2") || vendor.starts_with("Amazon EC2") {
        ec2(EC2, patience)?
    } else if vendor.starts_with("VMware") {
        vmware(&below(root, RPCTOOL))?
    } else {
        None
    };
    if node.is_some() {
        metadata.get_or_insert_default().node = node;
    }
    Ok(())
}

/// The instance's tag; `None` where it has none, or its tags are not shown to it.
pub fn ec2(service: &str, patience: Duration) -> Result<Option<String>> {
    let config = ureq::Agent::config_builder()
        .timeout_global(Some(TIMEOUT))
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None);
    let agent: ureq::Agent = config.build().into();
    let began = Instant::now();
    loop {
        match ask_ec2(&agent, service) {
            Ok(tag) => return Ok(tag),
            Err(why) if began.elapsed() >= patience => {
                return Err(why.context(format!(
                    "the metadata service at {service} did not tell this instance's tags within {} s",
                    patience.as_secs()
                )));
            }
            Err(_) => sleep(Duration::from_millis(500)),
        }
    }
}

fn ask_ec2(agent: &ureq::Agent, service: &str) -> Result<Option<String>> {
    let ttl = "X-aws-ec2-metadata-token-ttl-seconds";
    let token = agent.put(format!("{service}/latest/api/token")).header(ttl, "60").send_empty();
    let token = text(token.context("asking for a token")?)?.context("there are no tokens")?;
    let tag = agent.get(format!("{service}/latest/meta-data/tags/instance/{KEY}"));
    let tag = tag.header("X-aws-ec2-metadata-token", token.trim()).call().context("asking for the tag")?;
    Ok(text(tag)?.as_deref().and_then(word))
}

/// The body; `None` where there is nothing by that name.
fn text(mut answer: ureq::http::Response<ureq::Body>) -> Result<Option<String>> {
    match answer.status().as_u16() {
        200 => Ok(Some(answer.body_mut().with_config().limit(4 << 10).read_to_string()?)),
        404 => Ok(None),
        status => bail!("it answers with status {status}"),
    }
}

/// `guestinfo.hanode_node` of this virtual machine, as its administrator set it.
pub(crate) fn vmware(tool: &Path) -> Result<Option<String>> {
    if !tool.exists() {
        bail!("{RPCTOOL} is missing: this machine's guestinfo cannot be read; install open-vm-tools");
    }
    let mut asked = Command::new(tool);
    asked.arg(format!("info-get guestinfo.{KEY}")).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child =
        asked.stderr(Stdio::null()).spawn().with_context(|| format!("running {}", tool.display()))?;
    let until = Instant::now() + TIMEOUT;
    let status = loop {
        match child.try_wait()? {
            Some(status) => break status,
            None if Instant::now() >= until => {
                let _ = child.kill();
                let _ = child.wait();
                bail!("{RPCTOOL} did not answer within {} s", TIMEOUT.as_secs());
            }
            None => sleep(Duration::from_millis(20)),
        }
    };
    let mut said = String::new();
    if let Some(out) = child.stdout.take() {
        out.take(4 << 10).read_to_string(&mut said).context("guestinfo is not UTF-8")?;
    }
    // It fails where there is no such value.
    Ok(if status.success() { word(&said) } else { None })
}
