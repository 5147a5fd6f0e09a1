//! Patroni's gate.

use super::{Decision, Effect, InitFacts, InitGuard, Round};
use crate::peer::DiskData;
use crate::plan::{Initialize, Reason};

#[derive(Debug, Clone, Default)]
pub struct PatroniGate {
    init: InitGuard,
}

impl PatroniGate {
    /// `stale`: data of a restored snapshot that is still on the disk. `facts` matter only if [`InitGuard::concerns`] the observations.
    pub fn decide(&mut self, round: &Round, stale: DiskData, facts: &InitFacts) -> Decision {
        let (step, seen) = (&round.plan.postgres, round.seen);
        let mut effects = Vec::new();
        if !step.action.may_start() {
            // The node with the most recent data starts first, so all nodes with data measure it.
            if seen.own.data.postgres
                && seen.etcd.as_ref().is_ok_and(|etcd| etcd.initialize == Initialize::Absent)
            {
                effects.push(Effect::MeasureWalEnd);
            }
            effects.extend(self.init.before_patroni(round, facts));
            if let Reason::ChoosingRestore { request } = &step.reason {
                effects.push(Effect::ChooseRestore(request.clone()));
            }
            return Decision::new(step, effects);
        }
        let record = seen.etcd.as_ref().ok().and_then(|etcd| etcd.restore.as_ref());
        if matches!(step.reason, Reason::Restoring { .. }) {
            effects.push(Effect::PauseAfterFailedRestore);
        }
        // A Patroni that waits to clone may have to initialize instead, if the node that restores fails.
        if let Some(record) = record.filter(|_| !seen.own.data.postgres && !seen.own.recovery_source) {
            effects.push(Effect::PrepareRestore(record.choice.clone()));
        }
        effects.push(Effect::MarkServed);
        if seen.has_failed_init(&seen.own) {
            effects.push(Effect::StopLeftoverServer);
        }
        if stale.postgres || seen.has_failed_init(&seen.own) {
            effects.push(Effect::MovePostgresAside);
        }
        // Patroni may initialize PostgreSQL, or clone it.
        if !seen.has_postgres(&seen.own) {
            let cluster = seen.own.etcd_log.as_ref().map(|log| log.cluster.clone());
            effects.extend(cluster.map(Effect::MarkInit));
        }
        effects.extend([Effect::PublishGeneration, Effect::ReadStanza, Effect::ForgetWalEnd]);
        Decision::new(step, effects)
    }
}
