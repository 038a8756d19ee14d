/** Writes text for people to a stream: plain lines and aligned tables, bold headers on a terminal unless NO_COLOR is set. */
import type { Printer } from './command.ts';
import { printable } from './format.ts';
import { renderTable } from './table.ts';

interface Stream {
  isTTY?: boolean;
  columns?: number;
  write(text: string): unknown;
}

export function createPrinter(stream: Stream): Printer {
  const colour = Boolean(stream.isTTY) && !process.env['NO_COLOR'] && process.env['TERM'] !== 'dumb';
  const width = stream.isTTY ? stream.columns || 80 : null;
  return {
    line: (text = '') => stream.write(`${printable(text)}\n`),
    table: (header, rows, empty) => {
      if (rows.length === 0) {
        stream.write(`${empty}\n`);
        return;
      }
      const [first, ...lines] = renderTable(header, rows.map(cells), { width });
      stream.write(`${[colour ? `\x1b[1m${first}\x1b[0m` : first, ...lines].join('\n')}\n`);
    },
  };
}

/** A row stays one line. */
function cells(row: string[]): string[] {
  return row.map((cell) => printable(cell).replaceAll('\n', '\\x0a').replaceAll('\t', ' '));
}
