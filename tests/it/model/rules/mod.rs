//! One history for each rule of a gate that random histories test too rarely. docs/joining-rules.md lists all rules.

mod etcd;
mod postgres;
mod redis;

use super::world::{Machine, World};

/// Three machines that have booted.
fn booted() -> World {
    booted_in(World::new(3, 40))
}

fn booted_in(mut world: World) -> World {
    (0..3).for_each(|i| world.boot(i));
    world
}

fn in_service() -> World {
    let mut world = booted();
    world.run_on(40);
    assert!(world.healthy(), "{:#?}", world.machines);
    world
}

fn reboot(world: &mut World, i: usize) {
    world.crash(i);
    world.boot(i);
}

fn ends_in_service(world: &mut World) {
    world.heal();
    assert!(world.healthy(), "{:#?}", world.machines);
}

fn until(world: &mut World, i: usize, reached: impl Fn(&Machine) -> bool) {
    for _ in 0..60 {
        if reached(&world.machines[i]) {
            return;
        }
        world.tick(i);
    }
    panic!("not reached: {:#?}", world.machines[i]);
}

/// A bootstrap in which no etcd has started yet.
fn agreed() -> World {
    agreed_in(booted())
}

fn agreed_in(mut world: World) -> World {
    for i in (0..3).cycle().take(60) {
        if !world.machines[i].started {
            world.tick(i);
        }
    }
    assert!(world.machines[..3].iter().all(|m| m.started && !m.etcd_runs), "{:#?}", world.machines);
    world
}

fn switch_disk(world: &mut World, i: usize) {
    world.crash(i);
    world.fresh_disk(i);
    world.boot(i);
}
