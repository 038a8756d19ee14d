/**
 * What a command of the command line is, as data: the parser, the help, the completion and the reference are all made from these
 * records. A command's `run` returns what there is to say twice, as a JSON value and as text for people; it prints nothing itself.
 */
import type { Context } from './context.ts';

/** What kind of word is wanted, for completion. */
export type WordKind =
  | 'appliance'
  /** Of the appliance that is the first argument. */
  | 'snapshot'
  | 'template'
  | 'policy'
  | 'repo'
  /** A layer that stands on this host, as REPO/NAME. */
  | 'layer'
  /** Any layer that a repository offers. */
  | 'offered'
  | 'file'
  | 'dir'
  | 'command'
  | 'text';

export interface ArgumentSpec {
  /** As in the usage line: `NAME`. */
  name: string;
  description: string;
  kind: WordKind;
  optional?: boolean;
  /** Takes all the words that are left; only the last argument can. */
  variadic?: boolean;
}

export interface OptionSpec {
  /** `--repo`; the camel-cased name is the key of its value. */
  long: `--${string}`;
  short?: `-${string}`;
  /** Name of its value as in the usage line; without it the option is a switch. */
  value?: string;
  description: string;
  kind?: WordKind;
  choices?: readonly string[];
  /** May be given several times; the value is a list. */
  repeat?: boolean;
  required?: boolean;
  /** Its value is an integer of at least this. */
  minimum?: number;
}

export interface Outcome {
  /** The one value that --json prints. */
  json: unknown;
  /** Text for people. */
  human(print: Printer): void;
  /** Exit status when it is not 0. */
  status?: number;
}

export interface Printer {
  line(text?: string): void;
  /** Aligned columns under a header; nothing but the `empty` sentence without rows. */
  table(header: string[], rows: string[][], empty: string): void;
}

export type OptionValue = string | number | boolean | string[] | undefined;

export interface Invocation {
  context: Context;
  /** Arguments by their place; a variadic one as the list of its words. */
  args: (string | string[] | undefined)[];
  options: Record<string, OptionValue>;
}

export interface CommandSpec {
  /** The words that call it: `template create`. */
  path: string;
  summary: string;
  /** More sentences for --help and the reference. */
  details?: string;
  args?: ArgumentSpec[];
  options?: OptionSpec[];
  /** Command lines with what they do. */
  examples: [command: string, does: string][];
  /** Words after the first argument belong to the command itself, options too. */
  passThrough?: boolean;
  hidden?: boolean;
  run(invocation: Invocation): Promise<Outcome | null>;
}

/** Commands that only hold others, with one line each. */
export const GROUPS: Record<string, string> = {
  repo: 'Layer repositories: where layer units come from',
  layer: 'Layer units: import, build, look at, verify',
  template: 'Templates: named sets of layers that appliances follow',
  policy: 'Policies: secrets that forks do not get',
  daemon: 'stratad, the control plane of this host',
};

/** The option every command takes beside its own. */
export const COMMON_OPTIONS: OptionSpec[] = [
  {
    long: '--root',
    value: 'DIR',
    kind: 'dir',
    description: 'state root (default: $STRATA_ROOT or /var/lib/strata)',
  },
  { long: '--json', description: 'print one JSON value on stdout, nothing else' },
];

/** `--dry-run` -> `dryRun`. */
export function optionKey(long: string): string {
  return long.slice(2).replace(/-([a-z])/g, (_, letter: string) => letter.toUpperCase());
}

/** `template create NAME [LAYER...] [options]`. */
export function usageOf(spec: CommandSpec): string {
  const words = (spec.args ?? []).map((arg) => {
    const name = arg.variadic ? `${arg.name}...` : arg.name;
    return arg.optional ? `[${name}]` : name;
  });
  const required = (spec.options ?? []).filter((o) => o.required).map((o) => `${o.long} ${o.value}`);
  const ordered = spec.passThrough
    ? [words[0], '[options]', '[--]', ...words.slice(1)]
    : [...words, ...required, '[options]'];
  return ['strata', spec.path, ...ordered].join(' ');
}
