//! Histories that are rare by chance.

use super::world::World;
use super::{Event, run};
use hanode_core::plan::{Reason, Remedy};

/// Rare by chance: the last node's disk is replaced and put back while the others lose theirs.
#[test]
fn a_replaced_disk_instead_of_a_lost_one_requires_the_operator() {
    for n in [3, 5] {
        let majority = n / 2 + 1;
        let every_node = |event: fn(usize) -> Event| (0..n).map(event);
        let mut history: Vec<Event> = every_node(Event::Boot).collect();
        (0..20).for_each(|_| history.extend(every_node(Event::Tick)));
        // Only enough disks remain for a majority together with the replaced one.
        history.extend([Event::Wipe(n - 1), Event::Boot(n - 1)]);
        (0..20).for_each(|_| history.extend(every_node(Event::Tick)));
        history.extend((majority - 1..n - 1).map(Event::Wipe));
        history.push(Event::Return(n - 1));
        let mut world = run((n, 40, false, history));
        assert!(world.refused_with(Remedy::Recover), "{:#?}", world.machines);
        let of_replaced =
            |reason: &Reason| matches!(reason, Reason::QuorumLost { replaced, .. } if !replaced.is_empty());
        let mut refusals = world.machines.iter().flat_map(|m| m.refused.values());
        assert!(refusals.any(of_replaced), "{:#?}", world.machines);
        world.follow_advice();
        assert!(world.healthy(), "{:#?}", world.machines);
    }
}

/// A cluster in service, and the machine with Redis' primary.
fn in_service() -> (World, usize) {
    let mut world = World::new(3, 40);
    (0..3).for_each(|i| world.boot(i));
    world.run_on(40);
    assert!(world.healthy(), "{:#?}", world.machines);
    let primary = world.machines.iter().position(|m| m.redis_primary).expect("a primary");
    (world, primary)
}

/// The machine of the primary loses a write that the replicas have.
fn crash_before_fsync() -> (World, usize, Option<u64>) {
    let (mut world, primary) = in_service();
    world.write();
    (0..3).filter(|i| *i != primary).for_each(|i| world.tick(i));
    let acknowledged = world.machines[primary].disk.redis;
    world.crash(primary);
    assert!(world.machines[primary].disk.redis < acknowledged, "{:#?}", world.machines[primary]);
    world.boot(primary);
    (world, primary, acknowledged)
}

#[test]
fn a_crashed_primary_that_returns_at_once_loses_no_acknowledged_write() {
    let (mut world, primary, acknowledged) = crash_before_fsync();
    (0..4).for_each(|_| world.tick(primary));
    world.run_on(20);
    assert!(world.healthy(), "{:#?}", world.machines);
    assert!(world.machines[..3].iter().all(|m| m.disk.redis == acknowledged), "{:#?}", world.machines);
}

#[test]
fn a_crashed_primary_starts_if_no_replica_is_promoted() {
    let (mut world, primary, _) = crash_before_fsync();
    world.no_promotion = true;
    (0..20).for_each(|_| world.tick(primary));
    assert!(!world.machines[primary].redis_runs, "{:#?}", world.machines[primary]);
    (0..20).for_each(|_| world.tick(primary));
    assert!(world.machines[primary].redis_primary, "{:#?}", world.machines[primary]);
}

#[test]
fn a_primary_whose_process_restarts_stays_primary() {
    let (mut world, primary) = in_service();
    world.restart_redis(primary);
    world.tick(primary);
    assert!(world.machines[primary].redis_primary, "{:#?}", world.machines[primary]);
}

#[test]
fn a_primary_that_observed_before_a_failover_does_not_start_beside_the_new_one() {
    let (mut world, primary) = in_service();
    world.restart_redis(primary);
    world.observe_ahead(primary);
    world.failover((primary + 1) % 3);
    let promoted = world.machines[primary].disk.sentinel;
    world.tick(primary);
    assert_eq!(world.machines[primary].disk.sentinel, promoted, "no further failover");
    assert!(!world.machines[primary].redis_primary, "{:#?}", world.machines[primary]);
    world.run_on(20);
    assert!(world.healthy(), "{:#?}", world.machines);
}

#[test]
fn an_agreed_bootstrap_needs_no_query() {
    let mut world = World::new(3, 40);
    (0..3).for_each(|i| world.boot(i));
    world.run_on(20);
    assert!(world.healthy(), "{:#?}", world.machines);
    assert_eq!(world.queries_at_etcds_gate, 0, "queries of etcd without a quorum take seconds");
}
