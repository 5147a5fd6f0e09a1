//! Was each service back within what `hanode check --rto` computes from the configuration? Only rounds with
//! one strike are compared: that is what the budget is for.

use super::Fault;
use super::report::{Round, Struck};
use crate::load::Service;
use hanode_admin::recovery_time::{Budget, Loss};
use serde::Serialize;

/// What a measuring client adds: it gives up a hanging statement, and then a hanging connection, after 2 s each.
const CLIENT: f64 = 4.0;
/// And what the end of a round adds: the cluster has to look well twice.
const LOOKS: f64 = 2.0;

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Compared {
    pub(crate) loss: Loss,
    pub(crate) fault: &'static str,
    pub(crate) until: &'static str,
    pub(crate) seconds: f64,
    /// The budget's, with what measuring adds.
    pub(crate) at_most: f64,
}

impl Compared {
    pub(crate) fn within(&self) -> bool {
        self.seconds <= self.at_most
    }
}

/// `scale` is what the operator grants a slow machine.
pub(super) fn compare(budget: &Budget, round: &Round, scale: f64) -> Vec<Compared> {
    let [struck] = round.struck.as_slice() else { return Vec::new() };
    let gap = |service| round.gaps.get(&service).map_or(0.0, |gap| gap.seconds);
    let measured = |loss| match loss {
        Loss::PostgresLeader => (gap(Service::Postgres), CLIENT),
        Loss::RedisPrimary => (gap(Service::RedisWait), CLIENT),
        Loss::VipHolder | Loss::HungHaproxy | Loss::CutOffHolder => (gap(Service::Vip), CLIENT / 4.0),
        Loss::Node => (round.well_after, LOOKS),
    };
    let losses = losses(struck).into_iter().filter_map(|loss| budget.of(loss));
    losses
        .map(|row| {
            let (seconds, more) = measured(row.loss);
            let at_most = (row.at_most_seconds + more) * scale;
            Compared { loss: row.loss, fault: row.fault, until: row.until, seconds, at_most }
        })
        .collect()
}

/// What the strike took from the cluster, as far as the budget speaks of it.
fn losses(struck: &Struck) -> Vec<Loss> {
    let held = |role: &str| struck.roles.iter().any(|r| r == role);
    let mut losses = Vec::new();
    if matches!(struck.fault, Fault::Power | Fault::Disk) {
        let roles = [
            ("PostgreSQL leader", Loss::PostgresLeader),
            ("Redis primary", Loss::RedisPrimary),
            ("VIP", Loss::VipHolder),
        ];
        losses.extend(roles.into_iter().filter(|(role, _)| held(role)).map(|(_, loss)| loss));
    }
    match struck.fault {
        Fault::Disk => losses.push(Loss::Node),
        Fault::PauseHaproxy if held("VIP") => losses.push(Loss::HungHaproxy),
        Fault::Split | Fault::Deaf | Fault::Mute if held("VIP") => losses.push(Loss::CutOffHolder),
        _ => {}
    }
    losses
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::Target;
    use crate::load::Gap;
    use hanode_admin::recovery_time;
    use hanode_core::spec;

    fn round(fault: Fault, roles: &[&str], gap: f64, well_after: f64) -> Round {
        let struck = Struck {
            fault,
            target: Target::Busiest,
            seconds: 0,
            nodes: vec!["node1".into()],
            roles: roles.iter().map(|r| r.to_string()).collect(),
        };
        let gaps = Service::ALL.map(|s| (s, Gap { from: 0.0, seconds: gap })).into();
        Round { struck: vec![struck], at: 0.0, gaps, well_after, lasted: 0.0 }
    }

    #[test]
    fn what_took_longer_than_the_configuration_allows_is_found() {
        let spec = spec::parse(spec::STARTER).unwrap_or_else(|faults| panic!("{faults}"));
        let budget = recovery_time::budget(&spec);
        let over = |round: &Round, scale| {
            let all = compare(&budget, round, scale);
            all.into_iter().filter(|c| !c.within()).map(|c| c.loss).collect::<Vec<_>>()
        };
        let leader = ["PostgreSQL leader", "VIP"];
        assert_eq!(over(&round(Fault::Power, &leader, 4.0, 300.0), 1.0), [], "a reboot has no budget");
        assert_eq!(over(&round(Fault::Power, &leader, 30.0, 20.0), 1.0), [Loss::VipHolder]);
        assert_eq!(over(&round(Fault::Disk, &leader, 60.0, 200.0), 1.0).len(), 3);
        assert_eq!(over(&round(Fault::Disk, &leader, 60.0, 200.0), 20.0), []);
        assert_eq!(over(&round(Fault::Partition, &leader, 60.0, 200.0), 1.0), [], "not of the budget");
        let mut two = round(Fault::Disk, &leader, 60.0, 200.0);
        two.struck.extend(round(Fault::Power, &[], 0.0, 0.0).struck);
        assert_eq!(over(&two, 1.0), [], "more than one at once");
    }
}
