//! Compares measured outages with the limits that `hanode check --rto` computes from the configuration. The limits
//! apply to one fault at a time, so rounds with two are not compared.

use super::Fault;
use super::role::NodeRole;
use super::round::{InjectedFault, Round};
use crate::load::Service;
use hanode_admin::recovery_time::{Failure, RecoveryBudget};
use serde::Serialize;

/// Seconds that the client adds: it gives up a hanging statement, then a hanging connection, after 2 s each.
const CLIENT_TIMEOUTS: f64 = 4.0;
/// Seconds that the end of a round adds: two healthy polls are required.
const HEALTH_POLLS: f64 = 2.0;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Comparison {
    pub(crate) failure: Failure,
    pub(crate) fault: &'static str,
    pub(crate) until: &'static str,
    pub(crate) seconds: f64,
    /// The computed limit, plus what measuring adds.
    pub(crate) at_most: f64,
}

impl Comparison {
    pub(crate) fn within(&self) -> bool {
        self.seconds <= self.at_most
    }
}

/// `scale` multiplies the limits, for a slow machine.
pub(super) fn compare(budget: &RecoveryBudget, round: &Round, scale: f64) -> Vec<Comparison> {
    let [injected] = round.injected.as_slice() else { return Vec::new() };
    let gap = |service| round.gaps.get(&service).map_or(0.0, |gap| gap.seconds);
    let measured = |failure| match failure {
        Failure::PostgresLeader | Failure::PostgresStorage => (gap(Service::Postgres), CLIENT_TIMEOUTS),
        Failure::RedisPrimary | Failure::RedisStorage => (gap(Service::RedisWait), CLIENT_TIMEOUTS),
        Failure::VipHolder | Failure::HungHaproxy | Failure::IsolatedVipHolder | Failure::VipStorage => {
            (gap(Service::Vip), CLIENT_TIMEOUTS / 4.0)
        }
        Failure::Node | Failure::LongAbsence | Failure::SlowLink | Failure::ClockJump => {
            (round.healthy_after, HEALTH_POLLS)
        }
    };
    let rows = failures(injected).into_iter().filter_map(|failure| budget.row(failure));
    rows.map(|row| {
        let (seconds, more) = measured(row.failure);
        let at_most = (row.at_most_seconds + more) * scale;
        Comparison { failure: row.failure, fault: row.fault, until: row.until, seconds, at_most }
    })
    .collect()
}

/// The failures of the budget that the fault causes.
fn failures(injected: &InjectedFault) -> Vec<Failure> {
    let held = |role: NodeRole| injected.roles.contains(&role);
    let mut failures = Vec::new();
    if matches!(injected.fault, Fault::Power | Fault::Disk | Fault::Absence) {
        let roles = [
            (NodeRole::PostgresLeader, Failure::PostgresLeader),
            (NodeRole::RedisPrimary, Failure::RedisPrimary),
            (NodeRole::VipHolder, Failure::VipHolder),
        ];
        failures.extend(roles.into_iter().filter(|(role, _)| held(*role)).map(|(_, failure)| failure));
    }
    if matches!(
        injected.fault,
        Fault::StorageHangs | Fault::StorageReadOnly | Fault::StorageErrors | Fault::Full
    ) {
        let roles = [
            (NodeRole::PostgresLeader, Failure::PostgresStorage),
            (NodeRole::RedisPrimary, Failure::RedisStorage),
            (NodeRole::VipHolder, Failure::VipStorage),
        ];
        failures.extend(roles.into_iter().filter(|(role, _)| held(*role)).map(|(_, failure)| failure));
    }
    match injected.fault {
        Fault::Disk | Fault::StorageErrors => failures.push(Failure::Node),
        Fault::SlowLink => failures.push(Failure::SlowLink),
        Fault::ClockJump => failures.push(Failure::ClockJump),
        Fault::Absence => failures.push(Failure::LongAbsence),
        Fault::PauseHaproxy if held(NodeRole::VipHolder) => failures.push(Failure::HungHaproxy),
        Fault::Split | Fault::Deaf | Fault::Mute if held(NodeRole::VipHolder) => {
            failures.push(Failure::IsolatedVipHolder)
        }
        _ => {}
    }
    failures
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::Target;
    use crate::load::Gap;
    use hanode_admin::recovery_time;
    use hanode_core::spec;

    fn round(fault: Fault, roles: &[NodeRole], gap: f64, healthy_after: f64) -> Round {
        let injected = InjectedFault {
            fault,
            target: Target::Busiest,
            seconds: 0,
            nodes: vec!["node1".into()],
            roles: roles.to_vec(),
        };
        let gaps = Service::ALL.map(|s| (s, Gap { from: 0.0, seconds: gap })).into();
        Round { injected: vec![injected], at: 0.0, gaps, healthy_after, duration: 0.0 }
    }

    #[test]
    fn outages_over_the_limit_are_reported() {
        let spec = spec::parse(spec::STARTER).unwrap_or_else(|faults| panic!("{faults}"));
        let budget = recovery_time::budget(&spec);
        let over = |round: &Round, scale| {
            let all = compare(&budget, round, scale);
            all.into_iter().filter(|c| !c.within()).map(|c| c.failure).collect::<Vec<_>>()
        };
        let leader = [NodeRole::PostgresLeader, NodeRole::VipHolder];
        assert_eq!(over(&round(Fault::Power, &leader, 4.0, 300.0), 1.0), [], "a reboot has no limit");
        assert_eq!(over(&round(Fault::Power, &leader, 30.0, 20.0), 1.0), [Failure::VipHolder]);
        assert_eq!(over(&round(Fault::Disk, &leader, 60.0, 200.0), 1.0).len(), 3);
        assert_eq!(over(&round(Fault::Disk, &leader, 60.0, 200.0), 20.0), []);
        assert_eq!(over(&round(Fault::Absence, &[], 0.0, 200.0), 1.0), [Failure::LongAbsence]);
        let storage = over(&round(Fault::StorageHangs, &leader, 60.0, 200.0), 1.0);
        assert_eq!(storage, [Failure::PostgresStorage, Failure::VipStorage]);
        let errors = over(&round(Fault::StorageErrors, &leader, 60.0, 200.0), 1.0);
        assert_eq!(errors, [Failure::PostgresStorage, Failure::VipStorage, Failure::Node]);
        assert_eq!(over(&round(Fault::Full, &leader[..1], 60.0, 200.0), 1.0), [Failure::PostgresStorage]);
        assert_eq!(over(&round(Fault::SlowLink, &leader, 60.0, 200.0), 1.0), [Failure::SlowLink]);
        assert_eq!(over(&round(Fault::ClockJump, &leader, 60.0, 200.0), 1.0), [Failure::ClockJump]);
        assert_eq!(over(&round(Fault::Partition, &leader, 60.0, 200.0), 1.0), [], "a partition has no limit");
        let mut two = round(Fault::Disk, &leader, 60.0, 200.0);
        two.injected.extend(round(Fault::Power, &[], 0.0, 0.0).injected);
        assert_eq!(over(&two, 1.0), [], "two faults at once have no limit");
    }
}
