//! etcd's gate: it changes the membership, where removing a member could harm a running node of the same name.

use super::{Decision, Effect, Round, bootstrap, duplicate_address};
use crate::etcd::Member;
use crate::plan::{Action, JoinMethod, Observations, Plan, Reason, join_method, peer_url};
use crate::spec::Node;
use std::time::Duration;

#[derive(Debug, Clone, Default)]
pub struct EtcdGate {
    /// When Patroni's key of this node's name was first seen.
    key_since: Option<Duration>,
}

/// What must be known before etcd's membership changes.
#[derive(Debug, Clone, Default)]
pub struct JoinFacts {
    /// Another machine answers for this node's address.
    pub duplicate_address: bool,
    /// etcd has a Patroni's key of this node's name.
    pub patroni_key: bool,
    /// Patroni runs on this machine: the key is its own, renewed through the other nodes.
    pub own_patroni_runs: bool,
    /// etcd's members now.
    pub members: Vec<Member>,
}

impl EtcdGate {
    /// Whether the decision needs [`JoinFacts`].
    pub fn changes_members(round: &Round) -> bool {
        let joins = round.plan.etcd.step.action == Action::Join;
        joins && join_method(observed_members(round), &peer_url(round.own)) != JoinMethod::TakeListed
    }

    pub fn decide(&mut self, round: &Round, facts: &JoinFacts) -> Decision {
        let mut effects = bootstrap(round.plan, &round.seen.own);
        let step = &round.plan.etcd.step;
        let mut plan = round.plan.clone();
        match step.action {
            Action::Wait | Action::Refuse => return Decision::new(step, effects),
            Action::Bootstrap | Action::Resume => {}
            Action::Join if EtcdGate::changes_members(round) => match self.change_members(round, facts) {
                Ok(changes) => effects.extend(changes),
                Err(decision) => return *decision,
            },
            Action::Join => {
                effects.push(Effect::ClearEtcd);
                let (members, url) = (observed_members(round), peer_url(round.own));
                let listed = members.iter().find(|m| m.peer_urls.contains(&url));
                effects.extend(listed.map(|member| Effect::RecordMember(member.id.clone())));
                plan = with_members(&plan, round.own, members);
            }
        }
        let restore = round.seen.restore();
        if step.action == Action::Join && restore != round.seen.own.restore.as_ref() {
            effects.push(Effect::RecordRestore(restore.cloned()));
        }
        // A member of a running cluster: its data counts if that cluster is lost.
        if step.action != Action::Bootstrap && !round.seen.own.bootstrapping {
            effects.push(Effect::MarkServed);
        }
        effects.push(Effect::WriteFiles(Box::new(plan)));
        Decision::new(step, effects)
    }

    /// Makes this node a member that has not started yet.
    fn change_members(&mut self, round: &Round, facts: &JoinFacts) -> Result<Vec<Effect>, Box<Decision>> {
        let wait = |reason| Err(Box::new(Decision::wait(reason, vec![])));
        if facts.duplicate_address {
            return Err(Box::new(Decision::refuse(duplicate_address(round.own), vec![])));
        }
        if facts.patroni_key && !facts.own_patroni_runs {
            let (since, node) = (*self.key_since.get_or_insert(round.now), round.own.name.clone());
            let patroni = &round.spec.patroni;
            let limit = Duration::from_secs(u64::from(patroni.ttl + patroni.loop_wait));
            if round.now.saturating_sub(since) > limit {
                return Err(Box::new(Decision::refuse(Reason::DuplicateName { node }, vec![])));
            }
            return wait(Reason::KeyNotExpired { node });
        }
        let url = peer_url(round.own);
        let observed = join_method(observed_members(round), &url);
        match join_method(&facts.members, &url) {
            // The list may have changed since it was observed: remove only a member that is still to be replaced.
            JoinMethod::Replace(id) if observed == JoinMethod::Replace(id.clone()) => {
                Ok(vec![Effect::RemoveMember(id), Effect::ClearEtcd, Effect::AddMember])
            }
            JoinMethod::Add => Ok(vec![Effect::ClearEtcd, Effect::AddMember]),
            _ => wait(Reason::MembersChanging),
        }
    }
}

fn observed_members<'a>(round: &Round<'a>) -> &'a [Member] {
    round.seen.etcd.as_ref().map(|etcd| etcd.members.as_slice()).unwrap_or_default()
}

/// The plan in which etcd's initial cluster lists exactly its members.
pub fn with_members(plan: &Plan, own: &Node, members: &[Member]) -> Plan {
    let (mut plan, url) = (plan.clone(), peer_url(own));
    plan.etcd.initial_cluster = members
        .iter()
        .flat_map(|m| m.peer_urls.iter().map(move |u| (m, u)))
        .map(|(m, u)| format!("{}={u}", if *u == url { &own.name } else { &m.name }))
        .collect();
    plan
}

/// Whether a running etcd must pass its gate again (`passed`: its last step): the quorum that answers does not include
/// its log, after a recovery on another node or a removal of this member while it was unreachable. An etcd that has
/// just joined may not have written its log yet.
pub fn must_rejoin(passed: Option<Action>, seen: &Observations, plan: &Plan) -> bool {
    let has_log = passed == Some(Action::Resume) || seen.own.data.etcd;
    passed.is_some_and(Action::may_start) && has_log && plan.etcd.step.action == Action::Join
}
