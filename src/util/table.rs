//! Tables with columns of minimal width, two spaces apart: no borders, no trailing spaces.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ContentArrangement, Table};

/// The table without a final newline; the columns at the indices `numbers` are right-aligned.
pub fn aligned<R>(rows: impl IntoIterator<Item = R>, numbers: &[usize]) -> String
where
    R: IntoIterator<Item = String>,
{
    let mut table = Table::new();
    // Never wrap a long cell: scripts read the output by lines.
    table.load_preset(NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    for row in rows {
        table.add_row(row);
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if numbers.contains(&index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[&[&str]]) -> Vec<Vec<String>> {
        rows.iter().map(|row| row.iter().map(|cell| cell.to_string()).collect()).collect()
    }

    #[test]
    fn columns_are_two_spaces_apart() {
        let text = aligned(rows(&[&["NODE", "ROLE", ""], &["n1", "standby", "x"], &["n2"]]), &[]);
        assert_eq!(text, "NODE  ROLE\nn1    standby  x\nn2");
    }

    #[test]
    fn numbers_are_right_aligned() {
        let text = aligned(rows(&[&["FAULT", "TIMES"], &["power", "7"], &["", "12"]]), &[1]);
        assert_eq!(text, "FAULT  TIMES\npower      7\n          12");
    }

    #[test]
    fn long_cells_are_not_wrapped() {
        let long = "a b ".repeat(200);
        assert_eq!(aligned([[long.clone()]], &[]), long.trim_end());
    }
}
