/** The reference of the command line as Markdown (docs/cli.md), from the command records and the table of errors. */
import { ERROR_CODES } from '../base/index.ts';
import { COMMON_OPTIONS, type CommandSpec, GROUPS, type OptionSpec, usageOf } from './command.ts';
import { COMMANDS } from './commands/all.ts';

const HEAD = `# The command line

<!-- Made by scripts/gen-docs.ts from src/cli; do not edit. -->

Every command takes these options:

`;

const AFTER = `
**Output.** Results go to stdout, progress and errors to stderr: a live line on a terminal, plain lines now and then elsewhere. With
\`--json\` stdout holds exactly one JSON value, errors too: \`{"error":{"code":"...","message":"...","hint":"..."}}\`. \`NO_COLOR\` is honoured.

**Exit status.** 0 done, 1 failed, 2 wrong usage, 3 refused because it cannot be satisfied (a conflict, a missing dependency, a policy).
\`strata run\` exits with the status of its command. The codes of errors:

`;

const DAEMON = `
**The daemon.** A command that needs stratad starts it; it listens at \`run/stratad.sock\` in the state root, for root only. The same API
is open to programs: \`curl --unix-socket /var/lib/strata/run/stratad.sock http://localhost/v1/appliances\`; \`/openapi.json\` describes it,
\`/metrics\` is for Prometheus, \`/events\` streams the progress of all long work.

**Names of layers.** \`nginx\`, \`main/nginx\`, \`main/nginx=1.22.1-9\` (that version), \`=main/nginx\` (held at its version).
`;

/** The text of docs/cli.md. */
export function cliReference(): string {
  const sections: string[] = [];
  const seen = new Set<string>();
  for (const command of COMMANDS) {
    if (command.hidden) continue;
    const group = command.path.includes(' ') ? command.path.split(' ')[0]! : '';
    if (group !== '' && !seen.has(group)) {
      seen.add(group);
      sections.push(`## strata ${group}\n\n${GROUPS[group]}.\n`);
    }
    sections.push(section(command, group === '' ? '##' : '###'));
  }
  return `${HEAD}${optionTable(COMMON_OPTIONS)}${AFTER}${codeTable()}${DAEMON}\n${sections.join('\n')}`;
}

function section(command: CommandSpec, heading: string): string {
  const lines = [`${heading} strata ${command.path}`, '', `${command.summary}.`];
  if (command.details) lines.push(command.details);
  lines.push('', '```sh', usageOf(command), '```', '');
  const words = (command.args ?? []).map((arg) => [`\`${arg.name}\``, arg.description]);
  const options = (command.options ?? []).map((option) => [optionTerm(option), optionText(option)]);
  if (words.length + options.length > 0) {
    lines.push('| | |', '| --- | --- |');
    for (const row of [...words, ...options]) lines.push(`| ${row.map(escapeCell).join(' | ')} |`);
    lines.push('');
  }
  const width = Math.max(...command.examples.map(([line]) => line.length));
  const examples = command.examples.map(([line, does]) => `${line.padEnd(width)}  # ${does}`);
  lines.push('```sh', ...examples, '```', '');
  return lines.join('\n');
}

function optionTerm(option: OptionSpec): string {
  return `\`${option.value ? `${option.long} ${option.value}` : option.long}\``;
}

function optionText(option: OptionSpec): string {
  const choices = option.choices ? ` (${option.choices.join(', ')})` : '';
  return `${option.description}${choices}${option.required ? ' (required)' : ''}`;
}

function optionTable(options: OptionSpec[]): string {
  const rows = options.map((option) => `| ${optionTerm(option)} | ${escapeCell(optionText(option))} |`);
  return `${['| | |', '| --- | --- |', ...rows, '| `--help` | show help with examples |'].join('\n')}\n`;
}

function codeTable(): string {
  const rows = Object.entries(ERROR_CODES).map(
    ([code, { exit, http }]) => `| \`${code}\` | ${exit} | ${http} |`,
  );
  return `${['| code | exit status | HTTP status |', '| --- | --- | --- |', ...rows].join('\n')}\n`;
}

function escapeCell(text: string): string {
  return text.replaceAll('|', '\\|');
}
