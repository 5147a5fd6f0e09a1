//! Faults of the nodes' storage (pure).

use super::disk_space::name;
use super::{Problem, ProblemKind, Status};
use hanode_core::peer::{FileSystem, StorageFault};
use hanode_core::state::Component;

pub(super) fn problems(status: &Status) -> Vec<Problem> {
    let found = status.nodes.iter().flat_map(|node| {
        let faults = node.file_systems.iter().filter_map(|f| Some((f, f.fault?)));
        faults.map(|(file_system, fault)| {
            let what = format!("{} {}", name(file_system), describe(file_system, fault));
            Problem::new(ProblemKind::StorageFault, what).node(&node.name)
        })
    });
    found.collect()
}

fn describe(file_system: &FileSystem, fault: StorageFault) -> String {
    let since = match fault {
        StorageFault::Hangs => format!(" (the last one {} s ago)", file_system.write_age_seconds),
        _ => String::new(),
    };
    let servers = servers(file_system);
    let advice = match fault {
        StorageFault::Full => "delete what is not needed or enlarge the disk",
        StorageFault::ReadOnly => "check its storage, then reboot the node",
        _ => "check its storage",
    };
    format!("{}{since}; {servers}; {advice}", fault.describe())
}

fn servers(file_system: &FileSystem) -> String {
    if !file_system.roles_released {
        return "its servers run on until enough other nodes can take over".into();
    }
    let name = |server: &Component| match server {
        Component::Patroni => Component::Postgres.to_string(),
        other => other.to_string(),
    };
    match file_system.kept.iter().map(name).collect::<Vec<_>>().as_slice() {
        [] => "the node has stopped its servers".into(),
        some => format!(
            "the node has stopped its servers except {}, which no other node can take over",
            some.join(" and ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn a_fault_names_the_node_and_its_disk() {
        let spec = testing::spec();
        let mut status = testing::healthy(&spec);
        let problems =
            |status: &Status| super::problems(status).iter().map(Problem::to_string).collect::<Vec<_>>();
        assert!(problems(&status).is_empty());
        let disk = &mut status.nodes[1].file_systems[0];
        disk.holds = vec!["system".into(), "etcd".into()];
        (disk.fault, disk.write_age_seconds, disk.roles_released) = (Some(StorageFault::Hangs), 34, true);
        assert_eq!(
            problems(&status),
            [
                "node2: / (system, etcd) does not complete writes (the last one 34 s ago); the node has stopped its \
              servers; check its storage"
            ]
        );
        status.nodes[1].file_systems[0].kept = vec![Component::Patroni];
        assert!(problems(&status)[0].contains("has stopped its servers except PostgreSQL, which no other"));
        let disk = &mut status.nodes[1].file_systems[0];
        (disk.fault, disk.roles_released) = (Some(StorageFault::ReadOnly), false);
        assert_eq!(
            problems(&status),
            [
                "node2: / (system, etcd) is read-only; its servers run on until enough other nodes can take over; check \
              its storage, then reboot the node"
            ]
        );
    }
}
