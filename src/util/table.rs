//! Rows in columns as wide as they need to be, two spaces apart: no borders, no trailing blanks.

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ContentArrangement, Table};

/// The table without a final newline; the columns at the indices `numbers` are aligned on the right.
pub fn aligned<R>(rows: impl IntoIterator<Item = R>, numbers: &[usize]) -> String
where
    R: IntoIterator<Item = String>,
{
    let mut table = Table::new();
    // A long cell is never wrapped: the output may go to a file, and scripts read it by lines.
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
    fn numbers_are_aligned_on_the_right() {
        let text = aligned(rows(&[&["FAULT", "TIMES"], &["power", "7"], &["", "12"]]), &[1]);
        assert_eq!(text, "FAULT  TIMES\npower      7\n          12");
    }

    #[test]
    fn long_cells_stay_in_one_line() {
        let long = "a b ".repeat(200);
        assert_eq!(aligned([[long.clone()]], &[]), long.trim_end());
    }
}
