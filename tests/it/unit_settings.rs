//! What lands in an image of CentOS 8 is read by systemd 239: every setting of ours is one that it knows, or one that a
//! unit is no worse without than that much less confined. It passes over the others with a warning.

use std::path::Path;

/// Later than 239, and about confinement alone.
const CONFINEMENT: &[&str] = &[
    "ProcSubset",        // 247
    "ProtectClock",      // 245
    "ProtectHostname",   // 242
    "ProtectKernelLogs", // 244
    "ProtectProc",       // 247
    "RestrictSUIDSGID",  // 242
];

/// Settings that 239 has, as far as they are used.
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
fn every_setting_is_one_that_centos_systemd_knows_or_can_do_without() {
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
            // 240 and 244 brought these.
            assert!(!(key == "Type" && value == "exec"), "{path}: {line}");
            let again = text.lines().any(|l| l.starts_with("Restart=") && l != "Restart=no");
            assert!(!(line == "Type=oneshot" && again), "{path}: a oneshot is not restarted by systemd 239");
        }
    }
    assert!(seen > 15, "only {seen} units were found");
}
