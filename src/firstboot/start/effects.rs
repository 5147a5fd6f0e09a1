//! Carries out what the plan unit and the gates decide.

use super::{generation, init_facts, membership, redis_peers};
use crate::backup;
use crate::node::NodeContext;
use crate::restore;
use anyhow::{Context, Result};
use hanode_core::etcd::Member;
use hanode_core::gate::{Decision, Effect, Service, with_members};
use hanode_core::plan::{Action, Reason, Step};

/// Carries out the effects for one service.
pub(crate) struct Executor<'a> {
    node: &'a NodeContext,
    service: Service,
}

impl Executor<'_> {
    pub(crate) fn new(node: &NodeContext, service: Service) -> Executor<'_> {
        Executor { node, service }
    }

    /// Returns whether the service may start now. Saves the step: before the effects if it waits, otherwise after
    /// them.
    pub(super) fn carry_out(&self, decision: &Decision) -> Result<bool> {
        let (step, node) = (&decision.step, self.node);
        let starts = step.action.may_start();
        if !starts {
            node.save_gate_step(self.service, step)?;
        }
        if let Some(blocked) = self.perform_all(&decision.effects, step.action)? {
            let action = if blocked.needs_operator() { Action::Refuse } else { Action::Wait };
            node.save_gate_step(self.service, &Step::new(action, blocked))?;
            return Ok(false);
        }
        if starts {
            node.save_gate_step(self.service, step)?;
            tracing::info!("{}: {:?}: {}", self.service.component().key(), step.action, step.reason);
        }
        Ok(starts)
    }

    /// Returns why the service must still wait, if an effect was refused. `action`: that of the decision.
    pub(crate) fn perform_all(&self, effects: &[Effect], action: Action) -> Result<Option<Reason>> {
        let mut members = None;
        for effect in effects {
            match self.perform(effect, &mut members) {
                Ok(None) => {}
                Ok(refused) => return Ok(refused),
                // Retried in the next round, without the effects that follow.
                Err(error) if effect.repairs_init() && !action.may_start() => {
                    tracing::info!(
                        "cannot clean up an interrupted initialization of PostgreSQL yet: {error:#}"
                    );
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
            self.fail_point(effect, action).into_iter().for_each(|at| self.node.fail_point(at));
        }
        Ok(None)
    }

    /// `members`: those of etcd after this node was added.
    fn perform(&self, effect: &Effect, members: &mut Option<Vec<Member>>) -> Result<Option<Reason>> {
        let (node, disk) = (self.node, &self.node.disk);
        match effect {
            Effect::MarkStale(generation) => disk.mark_stale(*generation)?,
            Effect::RecordBootstrap(id) => disk.update_state(|disk| disk.bootstrap_id = Some(id.clone()))?,
            Effect::RecordRestore(request) => {
                disk.update_state(|disk| (disk.restore, disk.restore_choice) = (request.clone(), None))?;
            }
            Effect::ChooseRestore(request) => return restore::choose(node, request),
            Effect::PauseAfterFailedRestore => return restore::pause_after_failure(node),
            Effect::PrepareRestore(choice) => restore::prepare_postgres(node, choice)?,
            Effect::RestoreRedis => return restore::redis::load(node),
            Effect::MarkBootstrapping => {
                let recorded = disk.read_state()?.bootstrap_id;
                disk.mark_bootstrapping(&recorded.context("a bootstrap starts but is not recorded")?)?;
            }
            Effect::MarkServed => disk.mark_served()?,
            Effect::MarkInit(cluster) => {
                disk.update_state(|disk| disk.postgres_init = Some(cluster.clone()))?;
            }
            Effect::UnmarkInit => disk.update_state(|disk| disk.postgres_init = None)?,
            Effect::ClearEtcd => disk.clear_etcd()?,
            Effect::MovePostgresAside => disk.move_postgres_aside()?,
            Effect::MoveRedisAside => disk.move_redis_aside()?,
            Effect::RemoveTornSentinelFile => disk.remove_torn_sentinel_conf()?,
            Effect::RemoveMember(id) => membership::remove_member(node, id)?,
            Effect::AddMember => match membership::add_member(node)? {
                Ok(added) => *members = Some(added),
                Err(error) => return Ok(Some(Reason::NotAdded { error })),
            },
            Effect::RecordMember(id) => disk.update_state(|disk| disk.etcd_member = Some(id.clone()))?,
            Effect::PublishGeneration => generation::publish(node)?,
            // The watcher copies the name later; until then PostgreSQL keeps its WAL.
            Effect::ReadStanza => backup::prepare_postgres(node).unwrap_or_else(|error| {
                tracing::warn!("the name of the archive cannot be read from etcd yet: {error:#}")
            }),
            Effect::MeasureWalEnd => disk.measure_postgres_end()?,
            Effect::ForgetWalEnd => disk.forget_postgres_end()?,
            Effect::StopLeftoverServer => init_facts::stop_leftover_server(node)?,
            Effect::DeleteInitializeKey(revision) => init_facts::delete_initialize_key(node, revision)?,
            Effect::PromoteAnother => redis_peers::promote_another(node)?,
            Effect::WriteFiles(plan) => {
                let joined = members.as_ref().map(|members| with_members(plan, node.own(), members));
                node.apply_planned(joined.as_ref().unwrap_or(plan), self.service.component())?;
            }
        }
        Ok(None)
    }

    /// The fail point after an effect.
    fn fail_point(&self, effect: &Effect, action: Action) -> Option<&'static str> {
        match (effect, self.service) {
            (Effect::RecordBootstrap(_), _) => Some("bootstrap-recorded"),
            (Effect::RecordRestore(_), _) => Some("restore-recorded"),
            (Effect::PrepareRestore(_), _) => Some("restore-prepared"),
            (Effect::MarkBootstrapping, _) => Some("bootstrap-started"),
            (Effect::RemoveMember(_), _) => Some("etcd-member-removed"),
            (Effect::ClearEtcd, _) if action == Action::Join => Some("etcd-data-cleared"),
            (Effect::MarkServed, Service::Patroni | Service::Redis | Service::Sentinel) => {
                Some("marked-served")
            }
            (Effect::MarkInit(_), _) => Some("init-marked"),
            (Effect::PublishGeneration, _) => Some("generation-published"),
            (Effect::WriteFiles(_), Service::Etcd) => Some("etcd-files-written"),
            (Effect::WriteFiles(_), Service::Redis) => Some("redis-files-written"),
            (Effect::WriteFiles(_), Service::Sentinel) => Some("sentinel-files-written"),
            _ => None,
        }
    }
}
