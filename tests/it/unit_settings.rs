//! CentOS 8 has systemd 239, which ignores settings that it does not know. Each setting of our units is either known to it
//! or only confines a unit further.

use std::path::Path;

/// Settings added after 239 that only confine a unit, with the version that added them.
const CONFINEMENT: &[&str] = &[
    "ProcSubset",        // 247
    "ProtectClock",      // 245
    "ProtectHostname",   // 242
    "ProtectKernelLogs", // 244
    "ProtectProc",       // 247
    "RestrictSUIDSGID",  // 242
];

/// Settings of 239 that our units use.
const KNOWN: &[&str] = &[
    "Accept",
    "After",
    "Before",
    "BindPaths",
    "CapabilityBoundingSet",
    "CollectMode",
    "ConditionFirstBoot",
    "ConditionPathExists",
    "ConditionPathIsReadWrite",
    "Conflicts",
    "DefaultDependencies",
    "Description",
    "DeviceAllow",
    "DevicePolicy",
    "DynamicUser",
    "Environment",
    "EnvironmentFile",
    "ExecReload",
    "ExecStart",
    "ExecStartPost",
    "ExecStartPre",
    "ExecStop",
    "Group",
    "IPAddressDeny",
    "KillMode",
    "LimitNOFILE",
    "ListenStream",
    "LockPersonality",
    "LogLevelMax",
    "MaxConnections",
    "MaxConnectionsPerSource",
    "MemoryDenyWriteExecute",
    "MemoryMax",
    "Nice",
    "NoNewPrivileges",
    "PrivateDevices",
    "PrivateMounts",
    "PrivateNetwork",
    "PrivateTmp",
    "ProtectControlGroups",
    "ProtectHome",
    "ProtectKernelModules",
    "ProtectKernelTunables",
    "ProtectSystem",
    "ReadWritePaths",
    "RemainAfterExit",
    "Requires",
    "RequiresMountsFor",
    "Restart",
    "RestartSec",
    "RestrictAddressFamilies",
    "RestrictNamespaces",
    "RestrictRealtime",
    "RuntimeDirectory",
    "RuntimeDirectoryPreserve",
    "RuntimeMaxSec",
    "SocketGroup",
    "SocketMode",
    "SocketUser",
    "StandardError",
    "StandardInput",
    "StandardOutput",
    "StartLimitIntervalSec",
    "SystemCallArchitectures",
    "SystemCallErrorNumber",
    "SystemCallFilter",
    "TimeoutStartSec",
    "TimeoutStopSec",
    "TriggerLimitIntervalSec",
    "Type",
    "UMask",
    "User",
    "WantedBy",
    "Wants",
];

#[test]
fn every_setting_is_known_to_systemd_239_or_only_confines() {
    let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("image");
    let mut seen = 0;
    for file in walkdir::WalkDir::new(image) {
        let at = file.unwrap().into_path();
        let path = at.to_string_lossy().into_owned();
        let unit = path.contains("/units/") || path.contains("/systemd/system/");
        if !unit || !at.is_file() {
            continue;
        }
        seen += 1;
        let text = std::fs::read_to_string(&at).unwrap();
        for line in text.lines().filter(|line| !line.starts_with(['#', '['])) {
            let Some((key, value)) = line.split_once('=') else { continue };
            assert!(
                KNOWN.contains(&key) || CONFINEMENT.contains(&key),
                "{path}: {key}= is unknown to systemd 239"
            );
            // Type=exec came with 240, a oneshot that restarts with 244.
            assert!(!(key == "Type" && value == "exec"), "{path}: {line}");
            let again = text.lines().any(|l| l.starts_with("Restart=") && l != "Restart=no");
            assert!(!(line == "Type=oneshot" && again), "{path}: a oneshot is not restarted by systemd 239");
        }
    }
    assert!(seen > 15, "only {seen} units were found");
}
