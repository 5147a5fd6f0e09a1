//! etcd and Patroni, reduced to the state that joining depends on.

use super::world::{EtcdCluster, InitKey, World};
use hanode_core::gate::{Decision, Effect, with_members};
use hanode_core::plan::{Action, Plan, peer_url};
use std::time::Duration;

impl World {
    pub(super) fn start_etcd(&mut self, i: usize, decision: &Decision) {
        let m = &self.machines[i];
        assert!(!m.disk.torn_etcd, "etcd starts with an incomplete directory");
        assert!(!m.disk.stale.etcd, "etcd starts with the log of an older snapshot");
        let in_bootstrap = m.bootstrapping || decision.step.action == Action::Bootstrap;
        assert!(in_bootstrap || m.disk.served, "a member of a running cluster counts as new");
        let served = decision.effects.contains(&Effect::MarkServed);
        assert!(!in_bootstrap || !served, "a disk counts as served before its cluster has a quorum");
        if m.disk.etcd.is_none() {
            let files = decision.effects.iter().find_map(|effect| match effect {
                Effect::WriteFiles(plan) => Some(plan),
                _ => None,
            });
            let plan = files.expect("etcd starts without its files");
            match plan.etcd.initial_state.as_str() {
                "new" => self.start_new_cluster(i, &plan.etcd.token.clone()),
                _ => self.start_as_member(i, plan, decision.effects.contains(&Effect::AddMember)),
            }
        }
        self.machines[i].etcd_runs = true;
    }

    fn start_new_cluster(&mut self, i: usize, token: &str) {
        let n = self.spec.nodes.len();
        let members = (0..n).map(|j| (format!("{token}/{j}"), j, false)).collect();
        let alive = self.machines.iter().any(|m| m.disk.etcd.as_ref().is_some_and(|(c, _)| c == token));
        if !alive {
            // No disk has a log under this token: the cluster starts empty.
            self.etcd.insert(token.into(), EtcdCluster { members, ..EtcdCluster::default() });
        }
        let id = format!("{token}/{}", self.machines[i].node);
        self.start_without_log(i, token, id);
    }

    /// etcd finds itself in the member list by its peer URL.
    fn start_as_member(&mut self, i: usize, plan: &Plan, was_added: bool) {
        let m = &self.machines[i];
        let id = m.disk.etcd_member.clone().expect("the disk has no member id");
        let lists = |cluster: &EtcdCluster| {
            cluster.members.iter().any(|(m, of, _)| *m == id && *of == self.machines[i].node)
        };
        let cluster = self.etcd.iter().find(|(_, cluster)| lists(cluster)).map(|(token, _)| token.clone());
        let cluster = cluster.expect("etcd starts as a member that is not listed");
        let members = self.members(&cluster);
        // The executor writes the files with the members after the addition.
        let files = if was_added { with_members(plan, self.own(i), &members) } else { plan.clone() }.etcd;
        let own = format!("{}={}", self.name(i), peer_url(self.own(i)));
        assert!(
            files.initial_cluster.contains(&own),
            "etcd does not find itself in {:?}",
            files.initial_cluster
        );
        let urls = files.initial_cluster.iter().filter_map(|entry| entry.split_once('=')).map(|(_, url)| url);
        let listed = members.into_iter().flat_map(|member| member.peer_urls);
        assert!(urls.eq(listed), "etcd's members differ from {:?}", files.initial_cluster);
        self.start_without_log(i, &cluster, id);
    }

    fn start_without_log(&mut self, i: usize, cluster: &str, id: String) {
        let voted = self.etcd[cluster].members.iter().any(|(m, _, started)| *m == id && *started);
        assert!(!voted, "a started member starts again without its log");
        self.machines[i].disk.etcd = Some((cluster.into(), id));
    }

    pub(super) fn remove_member(&mut self, i: usize, id: &str) {
        let Some(cluster) = self.quorum(i) else { return };
        let has_log =
            |j: &usize| self.machines[*j].disk.etcd.as_ref().is_some_and(|(_, member)| member == id);
        let running =
            (0..self.machines.len()).filter(has_log).any(|j| j != i && self.within_quorum(j).is_some());
        assert!(!running, "a running member is removed");
        self.etcd.get_mut(&cluster).expect("cluster").members.retain(|(m, _, _)| m != id);
    }

    pub(super) fn add_member(&mut self, i: usize) {
        let Some(cluster) = self.quorum(i) else { return };
        let (id, node) = (format!("m{}", self.next()), self.machines[i].node);
        let members = &mut self.etcd.get_mut(&cluster).expect("cluster").members;
        assert!(members.iter().all(|(_, of, _)| *of != node), "etcd lists two members of one address");
        members.push((id.clone(), node, false));
        // The power may fail before the disk has the id.
        if self.machines[i].effects_left != Some(0) {
            self.machines[i].disk.etcd_member = Some(id);
        }
    }

    pub(super) fn publish_generation(&mut self, i: usize) {
        let Some(cluster) = self.quorum(i) else { return };
        let (node, generation) = (self.machines[i].node, self.machines[i].disk.generation);
        self.etcd.get_mut(&cluster).expect("cluster").generation.insert(node, generation);
    }

    /// A new etcd cluster of this machine with the keys of its log.
    pub(super) fn rebuild_etcd(&mut self, i: usize) {
        let (token, node) = (format!("recovered{}", self.next()), self.machines[i].node);
        let id = format!("{token}/me");
        let log =
            self.machines[i].disk.etcd.clone().and_then(|(cluster, _)| self.etcd.get(&cluster).cloned());
        let members = vec![(id.clone(), node, true)];
        let log = EtcdCluster {
            members,
            patroni_keys: Default::default(),
            restore: None,
            ..log.unwrap_or_default()
        };
        self.etcd.insert(token.clone(), log);
        self.machines.iter_mut().for_each(|m| m.disk.init_abandoned = m.disk.incomplete_postgres);
        let disk = &mut self.machines[i].disk;
        (disk.etcd, disk.etcd_member, disk.torn_etcd) = (Some((token, id.clone())), Some(id), false);
    }

    /// A member that runs within a quorum publishes its client URLs, and Patroni its keys, also after etcd lost them.
    pub(super) fn publish(&mut self) {
        let ttl = Duration::from_secs(self.spec.patroni.ttl.into());
        for i in 0..self.machines.len() {
            if let Some(cluster) = self.within_quorum(i) {
                let id = self.machines[i].disk.etcd.clone().unwrap_or_default().1;
                let members = &mut self.etcd.get_mut(&cluster).expect("cluster").members;
                members.iter_mut().filter(|(m, _, _)| *m == id).for_each(|m| m.2 = true);
            }
            if !self.machines[i].patroni_runs {
                continue;
            }
            // etcd of another node serves as well.
            let Some(cluster) = self.quorum(i) else { continue };
            let m = &self.machines[i];
            let (works, own) = (m.disk.postgres.is_some() || m.disk.incomplete_postgres, m.node);
            let within = self.within_quorum(i).is_some();
            let expires = self.now + ttl;
            let entry = self.etcd.get_mut(&cluster).expect("cluster");
            entry.patroni_keys.insert(own, (expires, works));
            // Also over the empty key of an initialization that a recovery interrupted.
            if within && self.machines[i].disk.postgres.is_some() {
                entry.initialize = InitKey::Done;
            }
        }
    }

    pub(super) fn delete_initialize_key(&mut self, i: usize, revision: &str) {
        let Some(cluster) = self.quorum(i) else { return };
        let entry = self.etcd.get_mut(&cluster).expect("cluster");
        if let InitKey::InProgress(by, current) = entry.initialize
            && current.to_string() == revision
        {
            entry.initialize = InitKey::Absent;
            let m = &self.machines[by];
            let running = m.patroni_runs && m.disk.incomplete_postgres && !m.frozen;
            assert!(!running || self.quorum(by).is_none(), "a running initialization is repeated");
        }
    }

    pub(super) fn move_postgres_aside(&mut self, i: usize) {
        let m = &mut self.machines[i];
        assert!(!m.leftover_server, "data is moved while a PostgreSQL writes it");
        assert!(
            m.disk.postgres.is_none() || m.disk.stale.postgres || m.disk.of.is_none(),
            "data that may have served is moved aside"
        );
        (m.disk.postgres, m.disk.incomplete_postgres, m.disk.stale.postgres) = (None, false, false);
        m.disk.postgres_init = None;
    }

    pub(super) fn start_patroni(&mut self, i: usize) {
        let Some(cluster) = self.quorum(i) else { return };
        let m = &self.machines[i];
        assert!(m.knows_archive, "PostgreSQL starts without the name of its archive");
        assert!(!m.leftover_server, "PostgreSQL starts beside one that outlived its Patroni");
        assert!(!m.disk.stale.postgres, "PostgreSQL starts with data of an older snapshot");
        assert!(
            !m.disk.incomplete_postgres || m.disk.init_abandoned,
            "PostgreSQL starts with incomplete data"
        );
        assert!(m.wal_end.is_none(), "the end of the log is reported while PostgreSQL runs");
        let generation = self.etcd[&cluster].generation.get(&m.node);
        assert!(generation == Some(&m.disk.generation), "an older snapshot would not be recognised");
        self.serve(i);
        let m = &mut self.machines[i];
        (m.patroni_gate, m.init_guard, m.knows_archive) = Default::default();
        if m.disk.incomplete_postgres {
            (m.disk.incomplete_postgres, m.disk.postgres) = (false, Some(0));
        }
        let leader = self.postgres_leader(i).and_then(|j| self.machines[j].disk.postgres);
        let m = &mut self.machines[i];
        (m.patroni_runs, m.disk.postgres) = (true, leader.or(m.disk.postgres));
        if self.etcd[&cluster].initialize == InitKey::Absent {
            self.register_postgres(i, &cluster);
        }
    }

    /// Without a registered cluster, Patroni registers the data on this disk, or initializes a new cluster.
    fn register_postgres(&mut self, i: usize, cluster: &str) {
        let others = (0..self.machines.len()).filter(|j| *j != i && !self.replaced(*j));
        let most = others.filter_map(|j| self.machines[j].disk.postgres).max();
        let m = &self.machines[i];
        assert!(
            m.disk.recovery_source || m.disk.postgres >= most,
            "a second cluster is bootstrapped beside existing data, or from older data: {i} {:#?}",
            self.machines
        );
        let has_data = m.disk.postgres.is_some();
        assert!(
            has_data || m.disk.recovery_source || m.disk.restore_prepared || !self.begins_with_a_restore(),
            "PostgreSQL is created empty instead of restored: {i} {:#?}",
            self.machines
        );
        let disk = &mut self.machines[i].disk;
        (disk.incomplete_postgres, disk.init_abandoned) = (!has_data, false);
        let key = if has_data { InitKey::Done } else { InitKey::InProgress(i, self.next()) };
        self.etcd.get_mut(cluster).expect("cluster").initialize = key;
    }

    /// Patroni completes its initialization, or clones from the leader. An initialization whose key is gone is
    /// cancelled.
    pub(super) fn advance_postgres(&mut self, i: usize) {
        let Some(cluster) = self.quorum(i).filter(|_| self.machines[i].patroni_runs) else { return };
        let key = self.etcd[&cluster].initialize;
        if self.machines[i].disk.incomplete_postgres {
            let own = matches!(key, InitKey::InProgress(by, _) if by == i);
            let disk = &mut self.machines[i].disk;
            (disk.incomplete_postgres, disk.postgres) = (false, own.then_some(0));
            if own {
                self.etcd.get_mut(&cluster).expect("cluster").initialize = InitKey::Done;
            }
            return;
        }
        if self.machines[i].disk.postgres.is_some() {
            return;
        }
        let leader = self.postgres_leader(i).and_then(|j| self.machines[j].disk.postgres);
        // If every disk with the data is lost, the operator lets Patroni start with an empty database.
        let all_lost = key == InitKey::Done && self.machines.iter().all(|m| m.disk.postgres.is_none());
        self.machines[i].disk.postgres = leader.or(all_lost.then_some(0));
        if key == InitKey::Absent {
            self.register_postgres(i, &cluster);
        }
    }

    /// The leader according to etcd: here, the first with data that runs within the quorum of `i`.
    pub(super) fn postgres_leader(&self, i: usize) -> Option<usize> {
        let cluster = self.quorum(i)?;
        (0..self.machines.len()).find(|j| {
            let m = &self.machines[*j];
            m.patroni_runs && m.disk.postgres.is_some() && self.within_quorum(*j).as_ref() == Some(&cluster)
        })
    }

    /// An operator deletes Patroni's keys; running members publish theirs again.
    pub fn forget_postgres(&mut self) {
        for i in 0..self.machines.len() {
            let Some(cluster) = self.within_quorum(i) else { continue };
            let known = self.postgres_leader(i).is_some();
            let entry = self.etcd.get_mut(&cluster).expect("cluster");
            if entry.initialize == InitKey::Done && !known {
                entry.initialize = InitKey::Absent;
            }
        }
    }

    /// This disk receives clients' data from now on. At most one bootstrap ever: a cluster is bootstrapped only if no disk
    /// is left that served another cluster.
    pub(super) fn serve(&mut self, i: usize) {
        assert!(self.machines[i].disk.served, "a service starts on a disk that is not marked");
        let Some(cluster) = self.quorum(i) else { return };
        if !cluster.starts_with("recovered") {
            let other = |j: &usize| {
                let m = &self.machines[*j];
                m.disk.of.as_ref().is_some_and(|of| *of != cluster) && !self.replaced(*j)
            };
            let found = (0..self.machines.len()).find(other);
            assert!(found.is_none(), "a second bootstrap_id: {cluster} on {i}, beside {:#?}", self.machines);
        }
        self.machines[i].disk.of = Some(cluster);
    }

    /// A write is acknowledged only if a replica has it too, as with `WAIT 1`.
    pub fn write(&mut self) {
        let serves = |p: &usize| {
            let m = &self.machines[*p];
            self.answers(*p)
                && m.redis_runs
                && m.redis_primary
                && self.group(*p).len() >= self.spec.majority()
        };
        if let Some(p) = (0..self.machines.len()).find(serves) {
            let disk = &mut self.machines[p].disk;
            (disk.redis, disk.unsynced) = (disk.redis.map(|writes| writes + 1), disk.unsynced + 1);
            self.replicate();
        }
        let leader = (0..self.machines.len()).find_map(|i| self.postgres_leader(i));
        if let Some(leader) = leader {
            let commits = self.machines[leader].disk.postgres.map(|commits| commits + 1);
            for j in self.all_at(leader).collect::<Vec<_>>() {
                let m = &mut self.machines[j];
                let copies = m.patroni_runs && m.disk.postgres.is_some();
                m.disk.postgres = if copies { commits } else { m.disk.postgres };
            }
        }
    }
}
