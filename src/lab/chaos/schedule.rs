//! The fault schedule: which fault, on which target, for how long. It depends only on the seed, so that a run can be
//! repeated.

use super::Fault;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde::Serialize;

/// Which node a fault is injected into, resolved to a name when its round starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Target {
    EtcdLeader,
    PostgresLeader,
    RedisPrimary,
    VipHolder,
    /// The node with most of these roles.
    Busiest,
    /// The node with the fewest.
    Idlest,
    /// The node at this index in the spec.
    Node(usize),
    AllNodes,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct PlannedFault {
    pub(crate) fault: Fault,
    pub(crate) target: Target,
    /// How long the fault lasts until it is reverted.
    pub(crate) seconds: u64,
}

/// Smaller clusters do not tolerate two faults at once.
const MIN_NODES_FOR_TWO_FAULTS: usize = 5;

/// The faults of each round. Every fault is used once before any is repeated.
pub(crate) fn schedule(seed: u64, rounds: usize, faults: &[Fault], nodes: usize) -> Vec<Vec<PlannedFault>> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut deck = Vec::new();
    let mut draw = |rng: &mut StdRng| {
        if deck.is_empty() {
            deck = faults.to_vec();
            deck.shuffle(rng);
        }
        deck.pop()
    };
    let round = |_| {
        let mut planned: Vec<PlannedFault> = Vec::new();
        let at_once = if nodes >= MIN_NODES_FOR_TWO_FAULTS { 2 } else { 1 };
        while planned.len() < at_once {
            let Some(fault) = draw(&mut rng) else { break };
            planned.push(plan_fault(&mut rng, fault, nodes));
            if fault == Fault::All {
                // No node is left for another fault.
                planned.drain(..planned.len() - 1);
                break;
            }
        }
        planned
    };
    (0..rounds).map(round).collect()
}

fn plan_fault(rng: &mut StdRng, fault: Fault, nodes: usize) -> PlannedFault {
    use Target::*;
    let targets = [
        EtcdLeader,
        PostgresLeader,
        RedisPrimary,
        VipHolder,
        Busiest,
        Idlest,
        Node(rng.random_range(0..nodes)),
    ];
    let pick = targets[rng.random_range(0..targets.len())];
    let target = match fault {
        Fault::PauseHaproxy => VipHolder,
        Fault::PausePostgres | Fault::PausePatroni | Fault::SlowLink => PostgresLeader,
        Fault::PauseRedis => RedisPrimary,
        Fault::PauseEtcd | Fault::StallEtcd => EtcdLeader,
        Fault::All => AllNodes,
        Fault::Power
        | Fault::Reboot
        | Fault::Disk
        | Fault::Absence
        | Fault::Partition
        | Fault::Split
        | Fault::Deaf
        | Fault::Mute
        | Fault::Freeze
        | Fault::Full
        | Fault::StorageHangs
        | Fault::StorageReadOnly
        | Fault::StorageErrors
        | Fault::ClockJump => pick,
    };
    // Zero tests a node that returns before the others have detected its failure.
    let seconds = match fault {
        // It lasts until the WAL is gone.
        Fault::Absence => 0,
        Fault::Power | Fault::Reboot | Fault::Disk | Fault::All => [0, 0, 15][rng.random_range(0..3)],
        // Longer than it takes until the node has no roles.
        Fault::StorageHangs | Fault::StorageReadOnly | Fault::StorageErrors => rng.random_range(3..=45),
        // Several stalls.
        Fault::StallEtcd => rng.random_range(15..=40),
        // Some return while the standbys are behind.
        Fault::SlowLink => rng.random_range(10..=40),
        _ => rng.random_range(3..=30),
    };
    PlannedFault { fault, target, seconds }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn same_seed_gives_the_same_schedule() {
        let of = |seed| schedule(seed, 20, Fault::value_variants(), 3);
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
    }

    #[test]
    fn every_fault_is_used_before_any_is_repeated() {
        let all = Fault::value_variants();
        let drawn: Vec<_> = schedule(1, all.len(), all, 3).into_iter().flatten().map(|s| s.fault).collect();
        assert_eq!(drawn.len(), all.len());
        assert!(all.iter().all(|fault| drawn.contains(fault)), "{drawn:?}");
    }

    #[test]
    fn two_faults_at_once_need_five_nodes_and_all_comes_alone() {
        let all = Fault::value_variants();
        assert!(schedule(3, 50, all, 3).iter().all(|round| round.len() == 1));
        let five = schedule(3, 50, all, 5);
        assert!(five.iter().any(|round| round.len() == 2));
        let alone =
            |round: &Vec<PlannedFault>| round.len() == 1 || round.iter().all(|s| s.fault != Fault::All);
        assert!(five.iter().all(alone));
    }
}
