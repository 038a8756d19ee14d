/** Aligned columns of text. On a terminal a row never wraps: its last column is cut; elsewhere nothing is cut. */

export interface TableOptions {
  /** Columns of the terminal, or null when the output is not one. */
  width: number | null;
}

/** The lines of a table, header first, without trailing spaces. */
export function renderTable(header: string[], rows: string[][], options: TableOptions): string[] {
  const lines = [header, ...rows];
  // Rows may be more than a call can have arguments.
  const widths = header.map((_, column) =>
    lines.reduce((widest, row) => Math.max(widest, textWidth(row[column] ?? '')), 0),
  );
  return lines.map((row) => {
    const cells = header.map((_, column) => {
      const cell = row[column] ?? '';
      return column === header.length - 1 ? cell : cell + ' '.repeat(widths[column]! - textWidth(cell));
    });
    return fit(cells.join('  ').trimEnd(), options.width);
  });
}

/** Cuts a line to the width of the terminal, with an ellipsis. */
export function fit(line: string, width: number | null): string {
  if (width === null || textWidth(line) <= width) return line;
  let cut = '';
  for (const character of line) {
    if (textWidth(cut + character) > width - 1) break;
    cut += character;
  }
  return `${cut}…`;
}

/** Columns that a text takes: code points, the wide East Asian ones twice, combining marks not. */
export function textWidth(text: string): number {
  if (/^[\x20-\x7e]*$/.test(text)) return text.length;
  let width = 0;
  for (const character of text) {
    if (/\p{Mark}/u.test(character)) continue;
    width +=
      /[\u1100-\u115f\u2e80-\ua4cf\uac00-\ud7a3\uf900-\ufaff\ufe30-\ufe6f\uff00-\uff60\uffe0-\uffe6]|\p{Emoji_Presentation}/u.test(
        character,
      )
        ? 2
        : 1;
  }
  return width;
}
