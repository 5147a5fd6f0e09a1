//! Which tests run at the same time.
//!
//! libtest runs as many tests at once as the machine has cores. Timeouts in a cluster or an emulated machine assume
//! that nothing else takes the processor, so such a test runs alone; builds and checks run at the same time.
//!
//! Tests whose changes a cluster repairs share one: it stays up after a test, and the next test of the same group uses
//! it. Tests of that group run first; a test of another group takes the cluster down.

use super::lab::Lab;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

static STATE: Mutex<State> =
    Mutex::new(State { concurrent: 0, alone: false, idle: None, waiting: BTreeMap::new() });
static CHANGED: Condvar = Condvar::new();

struct State {
    /// Number of tests that run at the same time.
    concurrent: usize,
    /// A test runs alone.
    alone: bool,
    /// The shared cluster, while no test uses it, and its group.
    idle: Option<(&'static str, Lab)>,
    /// Number of tests of each group that wait for its cluster.
    waiting: BTreeMap<&'static str, usize>,
}

/// A test's permission to run, until it is dropped.
pub struct Turn {
    alone: bool,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut state = state();
        match self.alone {
            true => state.alone = false,
            false => state.concurrent -= 1,
        }
        CHANGED.notify_all();
    }
}

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn wait_until(free: impl Fn(&State) -> bool) -> MutexGuard<'static, State> {
    CHANGED.wait_while(state(), |state| !free(state)).unwrap_or_else(PoisonError::into_inner)
}

/// For a test that runs at the same time as others of this kind.
pub fn concurrent() -> Turn {
    wait_until(|state| !state.alone).concurrent += 1;
    Turn { alone: false }
}

/// For a test that runs while no other does and no cluster is up.
pub fn alone() -> Turn {
    let mut state = wait_until(|state| {
        let wanted = state.idle.as_ref().is_some_and(|(group, _)| state.waiting.contains_key(group));
        !state.alone && state.concurrent == 0 && !wanted
    });
    state.alone = true;
    let idle = state.idle.take();
    drop(state);
    let turn = Turn { alone: true };
    drop(idle);
    turn
}

/// The cluster of a group, healthy. The first test of the group makes it, and the next one after a failed test.
pub fn shared(group: &'static str, make: impl FnOnce() -> Lab) -> Shared {
    *state().waiting.entry(group).or_default() += 1;
    let mut state = wait_until(|state| {
        let others = |other: &&str| *other != group && state.waiting.contains_key(other);
        let wanted = state.idle.as_ref().is_some_and(|(idle, _)| others(idle));
        !state.alone && state.concurrent == 0 && !wanted
    });
    state.alone = true;
    match state.waiting.get_mut(group) {
        Some(count) if *count > 1 => *count -= 1,
        _ => drop(state.waiting.remove(group)),
    }
    let idle = state.idle.take();
    drop(state);
    let turn = Turn { alone: true };
    let lab = match idle {
        Some((idle, lab)) if idle == group => lab.reused(),
        other => {
            drop(other);
            make()
        }
    };
    Shared { group, lab: Some(lab), _turn: turn }
}

/// The cluster of a group, for one test.
pub struct Shared {
    group: &'static str,
    lab: Option<Lab>,
    _turn: Turn,
}

impl Deref for Shared {
    type Target = Lab;

    fn deref(&self) -> &Lab {
        self.lab.as_ref().expect("only a drop takes it")
    }
}

impl Drop for Shared {
    /// After a failure the state of the cluster is unknown: it goes down.
    fn drop(&mut self) {
        let lab = self.lab.take();
        if !std::thread::panicking() {
            state().idle = lab.map(|lab| (self.group, lab));
        }
    }
}
