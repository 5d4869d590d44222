//! What is made of everything is made anew whenever it may have changed, and not for every Pod that comes and goes.

use super::{reads::any_of_all, *};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn what_was_made_in_the_same_state_is_the_same(
        changes in prop::collection::vec((any_of_all(), 0_u8..4), 1..24),
    ) {
        let mut index = Index::new(Cluster::default());
        let (mut statuses, mut groups) = (None, None);
        for (resource, what) in changes {
            if what == 0 {
                index.delete(&resource.key());
            } else {
                index.apply(resource);
            }
            let now = (index.state_of_statuses(), index.statuses());
            if let Some((state, known)) = &statuses && *state == now.0 {
                prop_assert_eq!(known, &now.1);
            }
            statuses = Some(now);
            let now = (index.state_of_external_groups(), index.external_groups());
            if let Some((state, known)) = &groups && *state == now.0 {
                prop_assert_eq!(known, &now.1);
            }
            groups = Some(now);
        }
    }
}

#[test]
fn pods_and_their_endpoints_change_neither_statuses_nor_groups() {
    let before = index(&[&server("web", ""), VM]);
    let mut after = before.clone();
    resources(WEB).into_iter().for_each(|r| after.apply(r));
    assert_eq!(before.state_of_statuses(), after.state_of_statuses());
    let groups = |index: &Index| index.state_of_external_groups();
    assert_eq!(groups(&before), groups(&after));
    after.delete(&resources(VM)[0].key());
    assert_ne!(groups(&before), groups(&after));
    after.delete(&resources(&server("web", ""))[0].key());
    assert_ne!(before.state_of_statuses(), after.state_of_statuses());
}
