//! What will be broken, when and for how long: drawn from a seed alone, so a run can be had again.

use super::fault::Fault;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde::Serialize;

/// Whom a fault strikes: found out when its time has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Target {
    EtcdLeader,
    PostgresLeader,
    RedisPrimary,
    VipHolder,
    /// The node with most of these roles.
    Busiest,
    /// The node with fewest.
    Idlest,
    /// The node at this place of the spec.
    Node(usize),
    Everybody,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Strike {
    pub(crate) fault: Fault,
    pub(crate) target: Target,
    /// Until the fault is taken back: the node switched on again, the cable plugged in.
    pub(crate) seconds: u64,
}

/// Two faults at once are more than three nodes are made for.
const NODES_FOR_TWO: usize = 5;

/// The strikes of each round. Every fault comes up once before any comes up again.
pub(crate) fn schedule(seed: u64, rounds: usize, faults: &[Fault], nodes: usize) -> Vec<Vec<Strike>> {
    let mut dice = StdRng::seed_from_u64(seed);
    let mut deck = Vec::new();
    let mut draw = |dice: &mut StdRng| {
        if deck.is_empty() {
            deck = faults.to_vec();
            deck.shuffle(dice);
        }
        deck.pop()
    };
    let round = |_| {
        let mut strikes: Vec<Strike> = Vec::new();
        let most = if nodes >= NODES_FOR_TWO { 2 } else { 1 };
        while strikes.len() < most {
            let Some(fault) = draw(&mut dice) else { break };
            strikes.push(strike(&mut dice, fault, nodes));
            if fault == Fault::All {
                // It leaves nothing for another to break.
                strikes.drain(..strikes.len() - 1);
                break;
            }
        }
        strikes
    };
    (0..rounds).map(round).collect()
}

fn strike(dice: &mut StdRng, fault: Fault, nodes: usize) -> Strike {
    use Target::*;
    let anywhere = [
        EtcdLeader,
        PostgresLeader,
        RedisPrimary,
        VipHolder,
        Busiest,
        Idlest,
        Node(dice.random_range(0..nodes)),
    ];
    let pick = anywhere[dice.random_range(0..anywhere.len())];
    let target = match fault {
        Fault::PauseHaproxy => VipHolder,
        Fault::PausePostgres | Fault::PausePatroni => PostgresLeader,
        Fault::PauseRedis => RedisPrimary,
        Fault::PauseEtcd => EtcdLeader,
        Fault::All => Everybody,
        _ => pick,
    };
    // A node that is back before the others have noticed is another case than one that stays away.
    let seconds = match fault {
        Fault::Power | Fault::Reboot | Fault::Disk | Fault::All => [0, 0, 15][dice.random_range(0..3)],
        _ => dice.random_range(3..=30),
    };
    Strike { fault, target, seconds }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn a_seed_gives_the_same_strikes_and_another_others() {
        let of = |seed| schedule(seed, 20, Fault::value_variants(), 3);
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
    }

    #[test]
    fn every_fault_comes_up_before_any_comes_up_again() {
        let all = Fault::value_variants();
        let drawn: Vec<_> = schedule(1, all.len(), all, 3).into_iter().flatten().map(|s| s.fault).collect();
        assert_eq!(drawn.len(), all.len());
        assert!(all.iter().all(|fault| drawn.contains(fault)), "{drawn:?}");
    }

    #[test]
    fn two_at_once_only_where_two_may_fail_and_a_cut_of_all_stays_alone() {
        let all = Fault::value_variants();
        assert!(schedule(3, 50, all, 3).iter().all(|round| round.len() == 1));
        let five = schedule(3, 50, all, 5);
        assert!(five.iter().any(|round| round.len() == 2));
        let alone = |round: &Vec<Strike>| round.len() == 1 || round.iter().all(|s| s.fault != Fault::All);
        assert!(five.iter().all(alone));
    }
}
