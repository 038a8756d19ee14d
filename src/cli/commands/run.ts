/**
 * `strata run`: a container on an appliance. The daemon mounts it and writes the bundle; the container itself runs
 * under this process, with its terminal and its signals, so it ends with the command line that started it.
 */
import { StrataError } from '../../base/index.ts';
import type { CommandSpec, Invocation } from '../command.ts';
import { text, texts, word, wordList } from '../words.ts';
import { CACHE_OPTION, cacheOption } from './cache-option.ts';

/** bash when the appliance has it, else sh. */
const SHELL = ['/bin/sh', '-c', '[ -x /bin/bash ] && exec /bin/bash; exec /bin/sh'];
const NETWORKS = ['host', 'none'] as const;
type Network = (typeof NETWORKS)[number];

function environment(pairs: string[]): Record<string, string> {
  const env: Record<string, string> = {};
  for (const pair of pairs) {
    const [key, value] = splitOnce(pair);
    if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(key)) {
      throw new StrataError('USAGE', `--env takes NAME=VALUE, not ${JSON.stringify(pair)}`);
    }
    env[key] = value ?? process.env[key] ?? '';
  }
  return env;
}

function splitOnce(word: string): [string, string | undefined] {
  const at = word.indexOf('=');
  return at < 0 ? [word, undefined] : [word.slice(0, at), word.slice(at + 1)];
}

async function run(invocation: Invocation): Promise<null> {
  const { context } = invocation;
  const name = word(invocation, 0);
  const network = (text(invocation, 'net') as Network | undefined) ?? 'host';
  const env = environment(texts(invocation, 'env'));
  const command = wordList(invocation, 1);
  const terminal = Boolean(process.stdin.isTTY && process.stdout.isTTY);
  const term = process.env['TERM'];
  const prepared = await context.call('prepareRun', {
    name,
    command: command.length > 0 ? command : SHELL,
    network,
    terminal,
    env: { ...(terminal && term ? { TERM: term } : {}), ...env },
    ...cacheOption(invocation),
  });
  try {
    const { execInteractive } = await import('../../runtime/index.ts');
    process.exitCode = await execInteractive(prepared.argv, prepared.env);
  } finally {
    await context.call('finishRun', { runId: prepared.runId }).catch((error: Error) => {
      context.note(`the container ended, but its mount could not be released: ${error.message}`);
    });
  }
  return null;
}

export const RUN_COMMAND: CommandSpec = {
  path: 'run',
  summary: 'Run a command in a container on an appliance',
  details:
    "Its own mount, pid, ipc and uts namespaces, no more privileges than a container engine gives; exits with the command's status. Without CMD a shell. Options stand before `--` or the command; what follows is the command's own.",
  args: [
    { name: 'NAME', description: 'the appliance', kind: 'appliance' },
    {
      name: 'CMD',
      description: 'the command and its arguments',
      kind: 'text',
      optional: true,
      variadic: true,
    },
  ],
  options: [
    {
      long: '--net',
      value: 'NET',
      choices: NETWORKS,
      description: "host (default): the host's network; none: only a loopback",
    },
    CACHE_OPTION,
    {
      long: '--env',
      value: 'NAME=VALUE',
      repeat: true,
      description: 'set an environment variable (repeatable)',
    },
  ],
  examples: [
    ['strata run web-1', 'a shell'],
    ["strata run web-1 -- nginx -g 'daemon off;'", 'a server in the foreground'],
    ['strata run web-1 --net none -- apt-get --version', 'without any network'],
  ],
  passThrough: true,
  run,
};
