//! Servers that are healthy by their own node's report, but that no HAProxy forwards clients to (pure).

use super::{NodeStatus, Problem, ProblemKind, Role, Status};
use hanode_core::peer::DownServer;
use hanode_core::spec::Spec;
use hanode_core::state::Component;

/// Checks notice a new role within a few seconds.
const SETTLED_SECONDS: u64 = 10;

pub(super) fn problems(spec: &Spec, status: &Status) -> Vec<Problem> {
    let answering = status.nodes.iter().filter(|node| node.servers.haproxy.answers());
    let views: Vec<&Vec<DownServer>> =
        answering.filter_map(|node| node.servers.haproxy.down.as_ref()).collect();
    let in_service = status.nodes.iter().filter(|node| node.in_service());
    let found = in_service.flat_map(|node| {
        let expected =
            [(Component::Postgres, postgres_backends(node)), (Component::Redis, redis_backends(spec, node))];
        expected.into_iter().filter_map(|(component, backends)| {
            let check = down_everywhere(node, &backends, &views)?;
            Some(Problem::new(ProblemKind::DownInHaproxy, check).component(component).node(&node.name))
        })
    });
    found.collect()
}

/// The backend in which a running PostgreSQL must be up, by its role.
fn postgres_backends(node: &NodeStatus) -> Vec<&'static str> {
    match node.servers.postgres.role.filter(|_| node.servers.postgres.state.is_up()) {
        None => vec![],
        Some(Role::Leader) => vec!["postgres_primary"],
        Some(_) => vec!["postgres_replicas"],
    }
}

/// The backends of which one must have a primary up. The second is for a primary with too few replicas.
fn redis_backends(spec: &Spec, node: &NodeStatus) -> Vec<&'static str> {
    match node.servers.redis.is_primary() {
        true if spec.redis.min_replicas > 0 => vec!["redis_primary", "redis_primary_alone"],
        true => vec!["redis_primary"],
        false => vec![],
    }
}

/// The result of a check, if every HAProxy holds the node's server down in all of these backends.
fn down_everywhere(node: &NodeStatus, backends: &[&str], views: &[&Vec<DownServer>]) -> Option<String> {
    let check = |view: &[DownServer], backend: &str| {
        let mut servers = view.iter().filter(|s| s.seconds >= SETTLED_SECONDS);
        servers.find(|s| s.node == node.name && s.backend == backend).map(|s| s.check.clone())
    };
    let everywhere = views.iter().all(|view| backends.iter().all(|b| check(view, b).is_some()));
    check(views.first()?, backends.first()?).filter(|_| everywhere)
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;
    use hanode_core::state::{Phase, PostgresState};

    fn down(backend: &str, node: &str, seconds: u64) -> DownServer {
        DownServer { backend: backend.into(), node: node.into(), seconds, check: "L6RSP".into() }
    }

    fn healthy_with(spec: &Spec, view: &[DownServer]) -> Status {
        let mut status = testing::healthy(spec);
        status.nodes.iter_mut().for_each(|node| node.servers.haproxy.down = Some(view.to_vec()));
        status
    }

    /// The problems when every HAProxy has this view.
    fn with_view(view: &[DownServer], change: impl Fn(&mut Status)) -> Vec<String> {
        let spec = testing::spec();
        let mut status = healthy_with(&spec, view);
        change(&mut status);
        problems(&spec, &status).iter().map(Problem::to_string).collect()
    }

    #[test]
    fn a_server_that_is_down_in_every_haproxy_is_a_problem() {
        let replica = [down("postgres_primary", "node3", 90), down("postgres_replicas", "node3", 90)];
        let found = with_view(&replica, |_| {});
        let expected = "node3: PostgreSQL is running, but HAProxy's check of it fails on every node (L6RSP)";
        assert_eq!(found, [expected]);
        assert!(
            with_view(&replica, |s| s.nodes[0].servers.haproxy.down = Some(vec![])).is_empty(),
            "one reaches it"
        );
        assert!(with_view(&replica, |s| s.nodes[2].phase = Phase::Starting).is_empty(), "a problem already");
        let starting = PostgresState::Other("starting".into());
        assert!(with_view(&replica, |s| s.nodes[2].servers.postgres.state = starting.clone()).is_empty());
        assert_eq!(with_view(&replica, |s| s.nodes[0].servers.haproxy.down = None).len(), 1, "an older node");
        assert!(
            with_view(&replica, |s| s.nodes.iter_mut().for_each(|n| n.servers.haproxy.down = None))
                .is_empty()
        );
        assert!(with_view(&[down("postgres_replicas", "node3", 5)], |_| {}).is_empty(), "it may be settling");
    }

    #[test]
    fn each_role_has_its_backend() {
        let roles = [
            down("postgres_replicas", "node1", 90),
            down("postgres_primary", "node2", 90),
            down("postgres_primary", "node3", 90),
            down("redis_primary", "node1", 90),
            down("redis_primary", "node3", 90),
        ];
        assert!(with_view(&roles, |_| {}).is_empty(), "a healthy cluster");
        assert_eq!(with_view(&[down("postgres_primary", "node1", 90)], |_| {}).len(), 1, "the leader");
    }

    #[test]
    fn a_primary_of_redis_with_too_few_replicas_is_in_its_other_backend() {
        let mut spec = testing::spec();
        let one = [down("redis_primary", "node2", 90)];
        let both = [down("redis_primary", "node2", 90), down("redis_primary_alone", "node2", 90)];
        spec.redis.min_replicas = 0;
        assert_eq!(problems(&spec, &healthy_with(&spec, &one)).len(), 1);
        spec.redis.min_replicas = 1;
        assert!(problems(&spec, &healthy_with(&spec, &one)).is_empty());
        assert_eq!(problems(&spec, &healthy_with(&spec, &both)).len(), 1);
    }
}
