//! The gates of Redis and Sentinel.

use super::{agreed, ends_in_service, in_service, reboot, until};
use crate::model::Event;
use crate::model::world::World;

fn redis_primary(world: &World) -> usize {
    world.machines.iter().position(|m| m.redis_primary).expect("a primary")
}

/// A replica whose disk was replaced, up to its Redis' gate, and the primary.
fn blank_replica() -> (World, usize, usize) {
    let mut world = in_service();
    let primary = redis_primary(&world);
    let replica = (primary + 1) % 3;
    world.crash(replica);
    world.fresh_disk(replica);
    (0..30).for_each(|_| world.tick(primary));
    world.boot(replica);
    until(&mut world, replica, |m| m.started);
    world.gate_etcd(replica);
    world.publish();
    (world, replica, primary)
}

#[test]
fn a_replica_does_not_start_before_its_sentinel() {
    let (mut world, replica, _) = blank_replica();
    world.gate_redis(replica);
    assert!(!world.machines[replica].redis_runs, "{:#?}", world.machines[replica]);
}

#[test]
fn a_replica_without_data_starts_only_while_its_primary_answers_as_primary() {
    let (mut world, replica, primary) = blank_replica();
    world.gate_sentinel(replica);
    let runs = |world: &mut World| {
        world.gate_redis(replica);
        world.machines[replica].redis_runs
    };
    world.machines[primary].redis_runs = false;
    assert!(!runs(&mut world), "{:#?}", world.machines);
    (world.machines[primary].redis_runs, world.machines[primary].redis_primary) = (true, false);
    assert!(!runs(&mut world), "{:#?}", world.machines);
    world.machines[primary].redis_primary = true;
    assert!(runs(&mut world), "it waits for no promotion: {:#?}", world.machines);
}

#[test]
fn a_replica_with_unreadable_data_keeps_it_until_its_primary_answers() {
    let mut world = in_service();
    let primary = redis_primary(&world);
    let replica = (primary + 1) % 3;
    world.apply(Event::DamageLog(replica));
    world.boot(replica);
    until(&mut world, replica, |m| m.started);
    world.gate_etcd(replica);
    world.gate_sentinel(replica);
    world.machines[primary].redis_runs = false;
    world.gate_redis(replica);
    assert!(world.machines[replica].disk.unreadable, "moved aside: {:#?}", world.machines);
    world.machines[primary].redis_runs = true;
    world.gate_redis(replica);
    assert!(world.machines[replica].redis_runs, "{:#?}", world.machines);
}

#[test]
fn a_primary_without_data_has_another_promoted_at_once() {
    let mut world = in_service();
    world.write();
    let primary = redis_primary(&world);
    world.crash(primary);
    world.fresh_disk(primary);
    (0..30).for_each(|_| world.tick((primary + 1) % 3));
    world.boot(primary);
    (0..4).for_each(|_| world.tick(primary));
    assert_ne!(redis_primary(&world), primary, "{:#?}", world.machines);
}

#[test]
fn a_redis_that_waits_causes_no_failover() {
    let mut world = in_service();
    let primary = redis_primary(&world);
    let replica = (primary + 1) % 3;
    reboot(&mut world, replica);
    world.machines[replica].disk.etcd = None;
    until(&mut world, replica, |m| m.started);
    world.gate_redis(replica);
    assert_eq!(redis_primary(&world), primary);
}

#[test]
fn a_redis_that_starts_marks_a_disk_that_its_sentinel_did_not_mark() {
    let mut world = agreed();
    (0..3).for_each(|i| world.gate_etcd(i));
    world.machines[0].disk.sentinel = Some((0, 0));
    world.gate_redis(0);
    assert!(world.machines[0].redis_runs, "{:#?}", world.machines[0]);
}

#[test]
fn the_primary_starts_at_once_after_all_nodes_were_off() {
    let mut world = in_service();
    let primary = redis_primary(&world);
    let named = world.machines[primary].disk.sentinel;
    (0..3).for_each(|i| reboot(&mut world, i));
    let replicas = || (0..3).filter(|i| *i != primary);
    (0..4).for_each(|_| replicas().for_each(|i| world.tick(i)));
    assert!(replicas().all(|i| world.machines[i].redis_runs), "{:#?}", world.machines);
    (0..2).for_each(|_| world.tick(primary));
    assert!(world.machines[primary].redis_primary && world.machines[primary].disk.sentinel == named);
}

#[test]
fn a_replica_with_data_starts_at_once() {
    let mut world = in_service();
    let primary = redis_primary(&world);
    let replica = (primary + 1) % 3;
    let restart = |world: &mut World| {
        world.restart_redis(replica);
        world.gate_redis(replica);
        assert!(world.machines[replica].redis_runs, "{:#?}", world.machines);
    };
    restart(&mut world);
    world.restart_redis(primary);
    restart(&mut world);
}

#[test]
fn a_sentinel_does_not_start_with_a_truncated_file() {
    let mut world = in_service();
    world.apply(Event::Tear(0));
    ends_in_service(&mut world);
}
