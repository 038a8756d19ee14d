/**
 * The parser: builds the commander tree from the command records, runs the chosen one, and turns its outcome or failure into
 * output and an exit status (0 done, 1 failed, 2 wrong usage, 3 cannot be satisfied). The only file that knows commander.
 */
import { Argument, Command, CommanderError, Option } from 'commander';
import { asStrataError, StrataError } from '../base/index.ts';
import { buildId, packageVersion } from '../daemon/contract.ts';
import {
  COMMON_OPTIONS,
  type CommandSpec,
  GROUPS,
  type OptionSpec,
  type OptionValue,
  optionKey,
  usageOf,
} from './command.ts';
import { COMMANDS } from './commands/all.ts';
import { RUN_COMMAND } from './commands/run.ts';
import { createContext } from './context.ts';
import { printable } from './format.ts';
import { createPrinter } from './printer.ts';
import { hoistRunOptions } from './run-words.ts';
import { parseCount } from './words.ts';

/** Runs a command line (without `node` and the script); the exit status. */
export async function main(argv: string[]): Promise<number> {
  const json = wantsJson(argv);
  let status = 0;
  const program = buildProgram(async (spec, command) => {
    status = await runCommand(spec, command);
  });
  const output = { text: '' };
  capture(program, output);
  try {
    await program.parseAsync(hoistRunOptions(argv, RUN_COMMAND), { from: 'user' });
    return process.exitCode === undefined ? status : Number(process.exitCode);
  } catch (thrown) {
    if (thrown instanceof CommanderError && thrown.exitCode === 0) {
      process.stdout.write(output.text);
      return 0;
    }
    if (thrown instanceof CommanderError && thrown.code === 'commander.help' && !json) {
      process.stderr.write(output.text);
      return 2;
    }
    return reportError(thrown instanceof CommanderError ? usageError(thrown) : asStrataError(thrown), json);
  }
}

/** The help text of a command or group. Throws USAGE when there is none. */
export async function helpFor(words: string[]): Promise<string> {
  let command = buildProgram(async () => {});
  for (const [i, one] of words.entries()) {
    const next = command.commands.find((c) => c.name() === one);
    if (!next) {
      throw new StrataError('USAGE', `unknown command '${words.slice(0, i + 1).join(' ')}'`, {
        hint: '`strata help` lists the commands',
      });
    }
    command = next;
  }
  return command.helpInformation();
}

/** The commander tree; `run` is called with the chosen command. */
export function buildProgram(run: (spec: CommandSpec, command: Command) => Promise<void>): Command {
  const program = new Command('strata')
    .description(
      'Strata, a file system for fleets: shared layers, appliances in milliseconds, patched while they run.',
    )
    .version(`strata ${packageVersion()} (${buildId()})`, '--version', 'print the version')
    .enablePositionalOptions()
    .helpCommand(false);
  settle(program);
  const groups = new Map<string, Command>([['', program]]);
  for (const spec of COMMANDS) {
    const words = spec.path.split(' ');
    const name = words.pop()!;
    const parent = groupOf(groups, words);
    const command = parent.command(name, { hidden: spec.hidden ?? false }).helpCommand(false);
    describeCommand(command, spec);
    command.action(async () => await run(spec, command));
    settle(command);
  }
  return program;
}

function groupOf(groups: Map<string, Command>, words: string[]): Command {
  const path = words.join(' ');
  const known = groups.get(path);
  if (known) return known;
  const parent = groupOf(groups, words.slice(0, -1));
  const group = parent
    .command(words.at(-1)!)
    .description(`${GROUPS[path]}.`)
    .summary(GROUPS[path] ?? '')
    .enablePositionalOptions()
    .helpCommand(false);
  settle(group);
  groups.set(path, group);
  return group;
}

/** Common behaviour of every command of the tree. */
function settle(command: Command): void {
  command
    .exitOverride()
    .allowExcessArguments(false)
    .helpOption('-h, --help', 'show this help')
    .configureHelp({ sortOptions: false, sortSubcommands: false, subcommandTerm: (c) => c.name() });
  // The common options are accepted at every place of the command line.
  for (const option of COMMON_OPTIONS) command.addOption(toOption(option));
}

function describeCommand(command: Command, spec: CommandSpec): void {
  command.summary(spec.summary);
  command.description(spec.details ? `${spec.summary}.\n\n${spec.details}` : `${spec.summary}.`);
  command.usage(usageOf(spec).slice(`strata ${spec.path}`.length).trim());
  for (const arg of spec.args ?? []) {
    const name = arg.variadic ? `${arg.name}...` : arg.name;
    command.addArgument(new Argument(arg.optional ? `[${name}]` : `<${name}>`, arg.description));
  }
  for (const option of spec.options ?? []) command.addOption(toOption(option));
  if (spec.passThrough) command.passThroughOptions();
  const examples = spec.examples.map(([line, does]) => `  ${line}\n      ${does}`);
  command.addHelpText('after', `\nExamples:\n${examples.join('\n')}`);
}

function toOption(spec: OptionSpec): Option {
  const names = spec.short ? `${spec.short}, ${spec.long}` : spec.long;
  const option = new Option(spec.value ? `${names} <${spec.value}>` : names, spec.description);
  if (spec.required) option.makeOptionMandatory();
  if (spec.choices) option.choices([...spec.choices]);
  if (spec.repeat) {
    option.argParser((value: string, previous: string[] | undefined) => [...(previous ?? []), value]);
  }
  if (spec.minimum !== undefined) {
    const { minimum } = spec;
    option.argParser((value: string) => parseCount(spec.long, value, minimum));
  }
  return option;
}

async function runCommand(spec: CommandSpec, command: Command): Promise<number> {
  const options = command.optsWithGlobals() as Record<string, OptionValue>;
  const own = Object.fromEntries(
    (spec.options ?? [])
      .map((o) => optionKey(o.long.replace('--no-', '--')))
      .map((key) => [key, options[key]]),
  );
  const context = createContext({
    root: options['root'] as string | undefined,
    json: options['json'] === true,
  });
  const outcome = await spec.run({ context, args: command.processedArgs, options: own });
  if (outcome === null) return Number(process.exitCode ?? 0);
  if (context.json) process.stdout.write(`${JSON.stringify(outcome.json)}\n`);
  else outcome.human(createPrinter(process.stdout));
  return outcome.status ?? 0;
}

function capture(command: Command, output: { text: string }): void {
  command.configureOutput({
    writeOut: (text) => {
      output.text += text;
    },
    writeErr: (text) => {
      output.text += text;
    },
    outputError: () => {},
  });
  for (const sub of command.commands) capture(sub, output);
}

/** True when --json stands among Strata's own options. */
function wantsJson(argv: string[]): boolean {
  const end = argv.indexOf('--');
  return (end < 0 ? argv : argv.slice(0, end)).includes('--json');
}

function usageError(error: CommanderError): StrataError {
  if (error.code === 'commander.help') {
    return new StrataError('USAGE', 'a command is missing', { hint: '`strata help` lists the commands' });
  }
  const message = error.message.replace(/^error: /, '').replace(/\n\s*/g, ' ');
  return new StrataError('USAGE', message, { hint: 'add --help to see what the command takes' });
}

function reportError(error: StrataError, json: boolean): number {
  if (json) process.stdout.write(`${JSON.stringify({ error: error.toJSON() })}\n`);
  else process.stderr.write(printable(`strata: ${error.message}${error.hint ? `; ${error.hint}` : ''}\n`));
  if (process.env['STRATA_DEBUG']) console.error(error);
  return error.exitStatus;
}
