//! Sentinel's gate.

use super::{Decision, Effect, Round};
use crate::plan::{Action, Plan, Reason, Step};
use crate::spec::Spec;
use std::net::IpAddr;

pub struct SentinelGate;

impl SentinelGate {
    /// A Sentinel with an intact file, which names a primary, starts at once: other nodes decide by its answers.
    pub fn resume(spec: &Spec, monitored: IpAddr) -> Decision {
        let mut plan = Plan::waiting(spec);
        plan.redis.step = Step::new(Action::Resume, Reason::IntactSentinel);
        plan.redis.primary = Some(monitored);
        Decision::new(&plan.redis.step.clone(), vec![Effect::WriteFiles(Box::new(plan))])
    }

    pub fn decide(round: &Round) -> Decision {
        let step = &round.plan.redis.step;
        if !step.action.may_start() {
            return Decision::new(step, vec![]);
        }
        let files = Effect::WriteFiles(Box::new(round.plan.clone()));
        Decision::new(step, vec![Effect::MarkServed, Effect::RemoveTornSentinelFile, files])
    }
}
