import assert from 'node:assert/strict';
import { type SpawnSyncReturns, spawn, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { until } from '../base/until.test-support.ts';
import { findDaemon, startDaemon } from '../client/index.ts';
import { RUN_COMMAND } from './commands/run.ts';
import { candidates } from './completion/candidates.ts';
import { createPrinter } from './printer.ts';
import { hoistRunOptions } from './run-words.ts';
import { renderTable, textWidth } from './table.ts';

const root = mkdtempSync(join(tmpdir(), 'strata-cli-'));
const MAIN = join(import.meta.dirname, 'main.ts');
const FAKE = join(import.meta.dirname, '../daemon/test-support/fake-daemon.ts');
let pid = 0;
// Without it every child would strip the types of every file anew.
process.env['NODE_COMPILE_CACHE'] = join(root, 'cache');

before(async () => {
  ({ pid } = await startDaemon({ root, main: FAKE }));
  for (const args of [
    ['template', 'create', 'web', 'nginx', 'git'],
    ['create', 'web', '--template', 'web', '--count', '3'],
  ]) {
    assert.equal(strata(args).status, 0);
  }
});
after(() => {
  process.kill(pid, 'SIGTERM');
  rmSync(root, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 });
});

function strata(args: string[]): SpawnSyncReturns<string> {
  return spawnSync(process.execPath, ['--disable-warning=ExperimentalWarning', MAIN, ...args], {
    encoding: 'utf8',
    env: { ...process.env, STRATA_ROOT: root, NO_COLOR: '1' },
    timeout: 60_000,
  });
}

/** Many command lines at once, two at a time. */
async function each(table: readonly (readonly string[])[], check: (args: string[], r: Ran) => void) {
  const queue = [...table];
  const worker = async () => {
    for (let args = queue.shift(); args; args = queue.shift()) check([...args], await ran([...args]));
  };
  await Promise.all([worker(), worker()]);
}

interface Ran {
  status: number;
  stdout: string;
  stderr: string;
}

function ran(args: string[]): Promise<Ran> {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', MAIN, ...args], {
      env: { ...process.env, STRATA_ROOT: root },
    });
    const result = { status: -1, stdout: '', stderr: '' };
    child.stdout.on('data', (chunk) => {
      result.stdout += chunk;
    });
    child.stderr.on('data', (chunk) => {
      result.stderr += chunk;
    });
    child.on('close', (status) => resolve({ ...result, status: status ?? -1 }));
  });
}

test('wrong usage exits with 2, one line on stderr and nothing on stdout', async () => {
  await each(
    [
      ['bogus'],
      ['repo', 'bogus'],
      ['clone', 'a'],
      ['gc', '--keep', '0'],
      ['fsck', 'surplus'],
      ['list', 'surplus'],
      ['list', '--bogus'],
      ['create', 'a'],
      ['create', 'a', '--template', 'web', '--count', '0'],
      ['create', 'a', '--template', 'web', '--count', 'many'],
      ['mount', 'web-1'],
      ['mount', 'web-1', '/mnt', '--door', 'window'],
      ['layer', 'show', 'nginx'],
      ['rollback', 'web', 'first'],
      ['run', 'web-1', '--net', 'bridge', '--', 'true'],
      ['run', 'web-1', '--bogus', '--', 'true'],
      ['help', 'bogus'],
      ['completion', 'fish'],
    ],
    (args, { status, stdout, stderr }) => {
      assert.equal(status, 2, `${args.join(' ')}: ${stderr}`);
      assert.equal(stdout, '', args.join(' '));
      assert.match(stderr, /^strata: [^\n]+; [^\n]+\n$|^strata: [^\n]+\n$/, args.join(' '));
    },
  );
});

test('--json prints exactly one value, for results and for errors', async () => {
  await each(
    [
      ['list', '--json'],
      ['--json', 'list'],
      ['template', '--json', 'list'],
      ['template', 'create', 'again', 'git', '--json'],
      ['status', '--json'],
      ['help', '--json'],
    ],
    (args, { status, stdout, stderr }) => {
      assert.equal(status, 0, args.join(' '));
      assert.equal(stderr, '', args.join(' '));
      assert.equal(stdout.trimEnd().split('\n').length, 1);
      JSON.parse(stdout);
    },
  );
  for (const [args, status, code] of [
    [['show', 'nobody'], 1, 'NOT_FOUND'],
    [['template', 'create', 'bad', 'main/boa'], 3, 'CONFLICT'],
    [['create', 'x'], 2, 'USAGE'],
    [['bogus'], 2, 'USAGE'],
    [['repo'], 2, 'USAGE'],
  ] as const) {
    const result = strata([...args, '--json']);
    assert.equal(result.status, status, args.join(' '));
    assert.equal(result.stderr, '');
    const { error } = JSON.parse(result.stdout);
    assert.equal(error.code, code);
    assert.equal(typeof error.message, 'string');
    assert.equal(typeof error.hint, 'string');
  }
});

test('an error says what, why and what to do next', () => {
  const { status, stderr } = strata(['template', 'create', 'bad', 'main/boa']);
  assert.equal(status, 3);
  assert.equal(
    stderr,
    'strata: cannot add main/boa: it conflicts with main/apache2 (both provide httpd); remove one of them\n',
  );
});

test('the JSON shapes that others read', () => {
  const json = (...args: string[]) => JSON.parse(strata([...args, '--json']).stdout);
  assert.deepEqual(json('create', 'solo', '--template', 'web', '--mac', '02:00:00:00:00:99'), {
    appliances: [{ name: 'solo', mac: '02:00:00:00:00:99', template: 'web' }],
    elapsed_ms: 2,
  });
  assert.deepEqual(json('list').appliances[0], {
    name: 'web-1',
    template: 'web',
    mac: '02:00:00:00:00:01',
    mounts: [],
    generation: 1,
    held_back: null,
  });
  const shown = json('template', 'show', 'web');
  assert.deepEqual(shown.explicit[0], { repo: 'main', layer: 'nginx', version: '1', held: false });
  assert.deepEqual(Object.keys(shown).slice(0, 5), ['name', 'generation', 'explicit', 'implicit', 'refs']);
  assert.deepEqual(Object.keys(json('diff', 'web-1').entries[0]), [
    'path',
    'change',
    'layer',
    'base_updated',
  ]);
  assert.deepEqual(json('update').appliances, { updated: 0, held_back: [] });
  assert.equal(json('status').daemon.pid, pid);
  assert.deepEqual(json('delete', 'solo'), { deleted: ['solo'] });
});

test('what cannot be updated by name exits with 3, broken units with 1', () => {
  assert.equal(strata(['update', 'stuck']).status, 3);
  assert.equal(strata(['update']).status, 0);
  assert.equal(strata(['layer', 'verify', 'main/broken']).status, 1);
  assert.equal(strata(['layer', 'verify']).status, 0);
});

test('text for people: one line an entry, aligned tables, the LDF as it is', () => {
  assert.equal(
    strata(['diff', 'web-1']).stdout,
    'M! /etc/motd       main/base-files 12 (updated since)\nA  /root/new file\nD  /usr/bin/perl   main/perl-base 5\n',
  );
  assert.equal(
    strata(['template', 'show', 'web']).stdout,
    'main/nginx 1\nmain/git 1\n\n'.replace(/\n\n$/, '\n\n'),
  );
  const [header, first] = strata(['list']).stdout.split('\n');
  assert.equal(header!.indexOf('TEMPLATE'), first!.indexOf('web', 3));
});

test('families: branches for people, conflicts that exit with 3, durations', () => {
  assert.equal(
    strata(['tree']).stdout,
    [
      'web',
      '├── web-1',
      '│   ├── @before',
      '│   └── test-1  (mounted)',
      '│       └── test-2',
      '└── web-2  (clone of web-0, deleted)',
      '',
    ].join('\n'),
  );
  const refused = strata(['merge', 'test-1', 'web-1', '--json']);
  assert.equal(refused.status, 3);
  assert.deepEqual(JSON.parse(refused.stdout).error.data.conflicts, [
    { path: '/etc/motd', kind: 'changed', taken: null },
  ]);
  const merged = strata(['merge', 'test-1', 'web-1', '--theirs']);
  assert.equal(
    merged.stdout,
    'M  /etc/motd\nC  /etc/motd  changed, theirs taken\n1 change of test-1 merged into web-1\n',
  );
  assert.equal(strata(['merge', 'test-1', 'web-1', '--theirs', '--ours']).status, 2);
  for (const wrong of ['1', 'h', '-1h', '1y', ''])
    assert.equal(strata(['ttl', 'web-1', wrong]).status, 2, wrong);
  assert.equal(strata(['ttl', 'web-1', 'never']).stdout, 'appliance web-1 stays\n');
  assert.match(strata(['ttl', 'web-1', '1d12h']).stdout, /^appliance web-1 ends 2026-/);
  // Without a slash it may be either: an appliance that there is, else a path.
  assert.equal(strata(['diff', 'web-1', 'web-2']).status, 0);
});

test("relative paths of this host are made absolute, the appliance's are not touched", () => {
  const cwd = mkdtempSync(join(tmpdir(), 'strata-cli-cwd-'));
  try {
    mkdirSync(join(cwd, 'tree'));
    const { stdout } = spawnSync(process.execPath, [MAIN, 'repo', 'add', 'rel', './tree', '--json'], {
      cwd,
      encoding: 'utf8',
      env: { ...process.env, STRATA_ROOT: root },
    });
    assert.equal(JSON.parse(stdout).source, join(cwd, 'tree'));
    const reverted = strata(['revert', 'web-1', 'etc/motd', '/a', '--json']);
    assert.deepEqual(JSON.parse(reverted.stdout).reverted, ['/etc/motd', '/a']);
  } finally {
    rmSync(cwd, { recursive: true });
  }
});

test('run passes the command through and exits with its status', () => {
  const inside = strata([
    'run',
    'web-1',
    '--net',
    'none',
    '--',
    'sh',
    '-c',
    'echo "$0 $*"; exit 7',
    '--json',
    '-x',
  ]);
  assert.equal(inside.stdout, '--json -x\n');
  assert.equal(inside.status, 7);
  assert.equal(strata(['run', 'nobody', 'true']).status, 1);
  assert.equal(strata(['run', 'web-1', 'sh', '-c', 'kill -9 $$']).status, 137);
});

test('options of run stand before or behind NAME, never in the command', () => {
  const hoist = (line: string) => hoistRunOptions(line.split(' '), RUN_COMMAND).join(' ');
  assert.equal(hoist('run a --net none -- ls -l -- x'), 'run --net none a ls -l -- x');
  assert.equal(hoist('run a --net=none ls --net host'), 'run --net=none a ls --net host');
  assert.equal(
    hoist('--root /r run --json a --env A=b -- --help'),
    '--root /r run --json --env A=b a --help',
  );
  assert.equal(hoist('run a --help'), 'run --help a');
  assert.equal(hoist('--root run list'), '--root run list');
  assert.equal(hoist('diff run --json'), 'diff run --json');
});

test('every command has help with a sentence and an example', async () => {
  const { COMMANDS } = await import('./commands/all.ts');
  const { helpFor } = await import('./program.ts');
  for (const { path, examples } of COMMANDS) {
    const text = await helpFor(path.split(' '));
    assert.match(text, /\.\n/, path);
    assert.match(text, /--json/, path);
    assert.ok(examples.length > 0, path);
  }
  const { stdout, status } = strata(['template', 'create', '--help']);
  assert.equal(status, 0);
  assert.match(stdout, /^Usage: strata template create NAME \[LAYER\.\.\.\] \[options\]\n/);
  assert.match(stdout, /Examples:\n {2}strata template create web nginx-light/);
  assert.match(strata(['--version']).stdout, /^strata \d+\.\d+\.\d+ /);
});

test('completion knows commands, options and names', async () => {
  for (const dir of ['appliances/web-1', 'appliances/web-2', 'templates/web', 'repos/main']) {
    mkdirSync(join(root, dir), { recursive: true });
  }
  const of = async (...words: string[]) =>
    (await candidates(['--root', root, ...words])).words.map(({ word }) => word);
  assert.deepEqual(await of('temp'), ['template']);
  assert.deepEqual(await of('template', 'h'), ['hold']);
  assert.deepEqual(await of('diff', ''), ['web-1', 'web-2']);
  assert.deepEqual(await of('delete', 'web-1', ''), ['web-2']);
  assert.deepEqual(await of('create', 'x', '--template', ''), ['web']);
  assert.deepEqual(await of('create', 'x', '--t'), ['--template', '--ttl']);
  const state = JSON.stringify({ snapshots: [{ name: 'before' }] });
  writeFileSync(join(root, 'appliances/web-1/state.json'), state);
  assert.deepEqual(await of('diff', 'web-1@'), ['web-1@before']);
  assert.deepEqual(await of('restore', 'web-1', ''), ['before']);
  assert.deepEqual(await of('mount', 'web-1', '/', '--door', ''), ['fuse', 'sealed']);
  assert.deepEqual(await of('template', 'add', 'web', 'ma'), ['main/']);
  assert.deepEqual(await of('template', 'add', 'web', 'main/h'), ['main/hello']);
  assert.deepEqual(await of('help', 'daemon', ''), ['start', 'stop', 'restart', 'run']);
  assert.deepEqual(await of('bogus', ''), []);
  assert.equal((await candidates(['layer', 'import', ''])).fill, 'files');
});

test('the completion scripts parse, and bash completes through them', () => {
  const bash = strata(['completion', 'bash']).stdout;
  const parsed = spawnSync('bash', ['-n'], { input: bash, encoding: 'utf8' });
  assert.equal(parsed.status, 0, parsed.stderr);
  if (spawnSync('zsh', ['--version']).error === undefined) {
    const zsh = spawnSync('zsh', ['-n'], { input: strata(['completion', 'zsh']).stdout, encoding: 'utf8' });
    assert.equal(zsh.status, 0, zsh.stderr);
  }
  const command = join(root, 'strata');
  writeFileSync(command, `#!/bin/sh\nexec '${process.execPath}' '${MAIN}' "$@"\n`, { mode: 0o755 });
  const script = `${bash}
    COMP_WORDS=('${command}' template unh) COMP_CWORD=2
    compopt() { :; }
    _strata; printf '%s\\n' "\${COMPREPLY[@]}"`;
  const { stdout } = spawnSync('bash', ['-c', script], { encoding: 'utf8' });
  assert.equal(stdout, 'unhold\n');
});

test('the daemon starts by itself, again after kill -9, and only once for two commands at a time', async () => {
  const { createClient } = await import('../client/index.ts');
  const own = mkdtempSync(join(tmpdir(), 'strata-cli-start-'));
  const client = () => createClient({ root: own, main: FAKE });
  try {
    const [a, b] = await Promise.all([client().call('ping', {}), client().call('ping', {})]);
    assert.equal(a.pid, b.pid);
    process.kill(a.pid, 'SIGKILL');
    await until('nobody answers', async () => (await findDaemon(own)) === null);
    const again = await client().call('list', {});
    assert.deepEqual(again.appliances, []);
    const now = await findDaemon(own);
    assert.notEqual(now?.pid, a.pid);
    const { stdout } = spawnSync(process.execPath, [MAIN, 'daemon', 'stop', '--json'], {
      encoding: 'utf8',
      env: { ...process.env, STRATA_ROOT: own },
    });
    assert.equal(JSON.parse(stdout).pid, now?.pid);
    assert.equal(await findDaemon(own), null);
  } finally {
    rmSync(own, { recursive: true, force: true });
  }
});

test('tables align wide characters and never wrap on a terminal', () => {
  assert.equal(textWidth('日本'), 4);
  assert.deepEqual(
    renderTable(
      ['A', 'B'],
      [
        ['日本', 'x'],
        ['a', 'y'],
      ],
      { width: null },
    ),
    ['A     B', '日本  x', 'a     y'],
  );
  const cut = renderTable(['A', 'B'], [['a', 'a long text']], { width: 8 });
  assert.deepEqual(cut, ['A  B', 'a  a lo…']);
});

test('text of a package or an appliance cannot drive the terminal', () => {
  let out = '';
  const printer = createPrinter({ write: (text) => (out += text) });
  printer.line('a\x1b[31mb\x9bc\nd\te');
  printer.table(['NAME'], [['x\x1b]0;title\x07\ny']], 'none');
  assert.equal(out, 'a\\x1b[31mb\\x9bc\nd\te\nNAME\nx\\x1b]0;title\\x07\\x0ay\n');
});
