/**
 * What may stand at a place of the command line, for the completion scripts: `strata __complete -- WORD...`, the last
 * word being the one to complete. Prints `candidate<TAB>description` lines, then `:files`, `:dirs` or `:none` for what the shell
 * should add. Names are read from the state root's directories: fast, and without starting a daemon.
 */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createClient } from '../../client/index.ts';
import { OFFERED_POLICIES } from '../../daemon/contract.ts';
import {
  type ArgumentSpec,
  COMMON_OPTIONS,
  type CommandSpec,
  type OptionSpec,
  type WordKind,
} from '../command.ts';
import { findCommand, subcommandsOf } from '../commands/all.ts';
import { chooseRoot } from '../context.ts';

/** At most so many names are offered. */
const MAX_CANDIDATES = 2_000;
/** Longer than that nobody waits for a completion. */
const LAYERS_TIMEOUT_MS = 1_500;

export interface Candidates {
  words: { word: string; description: string }[];
  /** What the shell adds by itself. */
  fill: 'files' | 'dirs' | 'none';
}

const NONE: Candidates = { words: [], fill: 'none' };

export async function printCandidates(argv: string[]): Promise<void> {
  const words = argv[0] === '--' ? argv.slice(1) : argv;
  const found = await candidates(words).catch(() => NONE);
  const lines = found.words.map(({ word, description }) => `${word}\t${description}`);
  process.stdout.write([...lines, `:${found.fill}`, ''].join('\n'));
}

/** The candidates for the last of `words` (the words after `strata`). */
export async function candidates(words: readonly string[]): Promise<Candidates> {
  const current = words.at(-1) ?? '';
  const place = readPlace(words.slice(0, -1));
  if (place === null) return NONE;
  const { command, path, args, pending, options, root, ended } = place;
  if (pending) return await forOption(pending, current, root);
  const known = [...(command?.options ?? []), ...COMMON_OPTIONS];
  if (current.startsWith('-') && !ended) {
    const free = known.filter((o) => o.repeat || !options.has(o.long));
    const help = { long: '--help', description: 'show help' };
    return matching(
      [...free, help].map((o) => ({ word: o.long, description: o.description })),
      current,
    );
  }
  if (!command) {
    const subs = subcommandsOf(path).map(({ word, summary }) => ({ word, description: summary }));
    return matching(subs, current);
  }
  if (command.path === 'help') {
    const subs = subcommandsOf(args).map(({ word, summary }) => ({ word, description: summary }));
    return matching(subs, current);
  }
  if (command.path === 'completion') {
    return matching(
      ['bash', 'zsh'].map((word) => ({ word, description: '' })),
      current,
    );
  }
  const argument = argumentAt(command, args.length);
  return argument === null ? NONE : await ofKind(argument.kind, { current, root, taken: args });
}

interface Place {
  command: CommandSpec | null;
  path: string[];
  args: string[];
  /** The option whose value comes next. */
  pending: OptionSpec | null;
  options: Set<string>;
  root: string | undefined;
  /** After `--`, or in the command of `run`. */
  ended: boolean;
}

/** Where the words before the current one lead; null when they lead nowhere. */
function readPlace(words: readonly string[]): Place | null {
  const place: Place = {
    command: null,
    path: [],
    args: [],
    pending: null,
    options: new Set(),
    root: undefined,
    ended: false,
  };
  for (const one of words) {
    if (place.pending) {
      if (place.pending.long === '--root') place.root = one;
      place.pending = null;
    } else if (one === '--' && !place.ended) {
      place.ended = true;
    } else if (one.startsWith('-') && !place.ended) {
      const [name] = one.split('=');
      const option = [...(place.command?.options ?? []), ...COMMON_OPTIONS].find((o) => o.long === name);
      if (one.startsWith('--root=')) place.root = one.slice('--root='.length);
      if (option) place.options.add(option.long);
      if (option?.value !== undefined && !one.includes('=')) place.pending = option;
    } else if (place.command) {
      place.args.push(one);
      if (place.command.passThrough && place.args.length > 1) place.ended = true;
    } else {
      place.path.push(one);
      place.command = findCommand(place.path);
      if (!place.command && subcommandsOf(place.path).length === 0) return null;
    }
  }
  return place;
}

function argumentAt(command: CommandSpec, index: number): ArgumentSpec | null {
  const args = command.args ?? [];
  const last = args.at(-1);
  return args[index] ?? (last?.variadic ? last : null);
}

async function forOption(option: OptionSpec, current: string, root: string | undefined): Promise<Candidates> {
  if (option.choices) {
    return matching(
      option.choices.map((word) => ({ word, description: '' })),
      current,
    );
  }
  return await ofKind(option.kind ?? 'text', { current, root, taken: [] });
}

interface KindQuery {
  current: string;
  root: string | undefined;
  taken: string[];
}

async function ofKind(kind: WordKind, query: KindQuery): Promise<Candidates> {
  const { current, taken } = query;
  const root = chooseRoot(query.root);
  const named = (names: string[], description: string) =>
    matching(
      names.filter((name) => !taken.includes(name)).map((word) => ({ word, description })),
      current,
    );
  switch (kind) {
    case 'appliance': {
      if (current.includes('@')) {
        const [owner] = current.split('@') as [string];
        return named(
          snapshotsOf(root, owner).map((one) => `${owner}@${one}`),
          'snapshot',
        );
      }
      const found = named(directoriesOf(join(root, 'appliances')), 'appliance');
      return current.includes('/') ? { ...found, fill: 'dirs' } : found;
    }
    case 'snapshot':
      return named(snapshotsOf(root, taken[0] ?? ''), 'snapshot');
    case 'template':
      return named(directoriesOf(join(root, 'templates')), 'template');
    case 'policy':
      return named([...OFFERED_POLICIES, ...directoriesOf(join(root, 'policies'))], 'policy');
    case 'repo':
      return named(directoriesOf(join(root, 'repos')), 'repository');
    case 'layer':
      return await layers({ root, current, available: false });
    case 'offered':
      return await layers({ root, current, available: true });
    case 'file':
      return { words: [], fill: 'files' };
    case 'dir':
      return { words: [], fill: 'dirs' };
    default:
      return NONE;
  }
}

/** Asks a running daemon only; `REPO/` first, then the layers of that repository. */
async function layers(o: { root: string; current: string; available: boolean }): Promise<Candidates> {
  const held = o.current.startsWith('=') ? '=' : '';
  const typed = o.current.slice(held.length);
  const slash = typed.indexOf('/');
  if (slash < 0) {
    const repos = directoriesOf(join(o.root, 'repos')).map((repo) => ({
      word: `${held}${repo}/`,
      description: 'repository',
    }));
    return matching(repos, o.current);
  }
  const repo = typed.slice(0, slash);
  const match = typed.slice(slash + 1);
  const client = createClient({ root: o.root, start: false });
  const signal = AbortSignal.timeout(LAYERS_TIMEOUT_MS);
  const found = await client.call(
    'layerList',
    // Without a first letter a whole archive would come: then what is here must do.
    match === '' ? { repo } : { repo, match, available: o.available },
    { signal },
  );
  const words = new Map(found.layers.map((l) => [`${held}${l.repo}/${l.layer}`, l.description]));
  return matching(
    [...words].map(([word, description]) => ({ word, description })),
    o.current,
  );
}

function matching(words: Candidates['words'], current: string): Candidates {
  const found = words.filter(({ word }) => word.startsWith(current)).slice(0, MAX_CANDIDATES);
  return {
    words: found.map(({ word, description }) => ({ word, description: oneLine(description) })),
    fill: 'none',
  };
}

function oneLine(text: string): string {
  return text.replace(/[\x00-\x1f\x7f]+/g, ' ').slice(0, 80);
}

function snapshotsOf(root: string, appliance: string): string[] {
  try {
    const file = join(root, 'appliances', appliance.replaceAll('/', ''), 'state.json');
    const { snapshots } = JSON.parse(readFileSync(file, 'utf8')) as { snapshots?: { name: string }[] };
    return (snapshots ?? []).map(({ name }) => name);
  } catch {
    return [];
  }
}

function directoriesOf(dir: string): string[] {
  try {
    const entries = readdirSync(dir, { withFileTypes: true });
    return entries.filter((e) => !e.isFile() && !e.name.startsWith('.')).map((e) => e.name);
  } catch {
    return [];
  }
}
