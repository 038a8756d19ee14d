/**
 * A life of a state root on a logged disk: every command that changes state, one after the other, through bin/strata. Remembers what could be seen
 * after each, where the log stood when it was acknowledged, and what programs inside an appliance made durable by fsync.
 */
import { execFileSync } from 'node:child_process';
import {
  closeSync,
  fdatasyncSync,
  fsyncSync,
  mkdirSync,
  openSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { createClient } from '../../src/client/index.ts';
import { type StrataRoot, sh } from '../helpers/strata.ts';
import type { LoggedDisk } from './logged-disk.ts';
import { type Picture, pictureOf, type Source } from './picture.ts';

export interface Step {
  name: string;
  /** The appliance whose files were changed from outside: in between they are of no account. */
  prepares?: string;
  /** Bytes of the log when the command had been acknowledged. */
  acknowledged: number;
  /** It is on the disk with the next step at the latest. */
  isLater?: boolean;
  after: Picture;
}

/** What a program wrote in appliance `w`. */
export interface FileWrite {
  path: string;
  /** DELETED: a shared file is hidden. GONE: the appliance has nothing of its own there. */
  content: string;
  began: number;
  /** The log when fsync had returned. */
  synced: number;
  /** Whoever looks sees the old or the new content, never a part. */
  isAtomic: boolean;
}

export interface Life {
  steps: Step[];
  writes: FileWrite[];
}

/** A file that is open, and longer than what a clone copies before it is acknowledged. */
const LOG = 'etc/log';

export const DELETED = '\0deleted';
export const GONE = '\0gone';

/** The appliance whose files are followed write by write. */
export const WRITER = 'w';

const EMPTY: Picture = { repositories: [], layers: [], templates: {}, appliances: {} };

export async function live(disk: LoggedDisk, work: string, s: StrataRoot): Promise<Life> {
  const life: Life = { steps: [{ name: 'nothing', acknowledged: 0, after: EMPTY }], writes: [] };
  const client = createClient({ root: s.root, start: false });
  const source: Source = {
    repoList: () => client.call('repoList', {}),
    layerList: (o) => client.call('layerList', o),
    templateList: () => client.call('templateList', {}),
    templateShow: (name) => client.call('templateShow', { name }),
    list: () => client.call('list', {}),
    show: (name) => client.call('show', { name }),
    diff: (o) => client.call('diff', o),
  };
  const view = (name: string) => join(work, 'view', name);

  async function acknowledge(step: Omit<Step, 'after'>): Promise<void> {
    life.steps.push({ ...step, after: await pictureOf(source, s.root, [WRITER]) });
  }

  /** One command that changes state. */
  async function step(...args: string[]): Promise<void> {
    await s.json(...args);
    const isLater = args[0] === 'clone' && !args.includes('sync');
    await acknowledge({ name: args.join(' '), acknowledged: disk.position(), isLater });
  }

  /** A clone while a log and a small file are open, and then syncs in its source, with which the clone is on the disk. */
  async function cloneAndSync(source: string, name: string, file: string): Promise<void> {
    const log = openSync(join(view(source), LOG), 'a');
    const small = openSync(join(view(source), 'etc/one'), 'r+');
    await s.json('clone', source, name);
    const acknowledged = disk.position();
    writeSync(log, 'later\n');
    writeFileSync(join(view(source), file), `after ${name}\n`, { flush: true });
    writeSync(small, '9', 0);
    for (const fd of [log, small]) {
      fsyncSync(fd);
      closeSync(fd);
    }
    const synced = disk.position();
    await acknowledge({ name: `clone ${source} ${name}`, prepares: source, acknowledged, isLater: true });
    await acknowledge({ name: `a sync in ${source}`, prepares: source, acknowledged: synced });
  }

  /** Changes files of an appliance and brings them to the disk. */
  async function prepare(name: string, change: () => void): Promise<void> {
    change();
    await sh(`sync -f '${disk.dir}'`);
    await acknowledge({ name: `writes in ${name}`, prepares: name, acknowledged: disk.position() });
  }

  async function build(layer: string, version: string, files: Record<string, string>, more: string[] = []) {
    const tree = join(work, 'trees', `${layer}_${version}`);
    for (const [path, text] of Object.entries(files)) {
      mkdirSync(dirname(join(tree, path)), { recursive: true });
      writeFileSync(join(tree, path), text);
    }
    await step('layer', 'build', tree, '--repo', 'local', '--name', layer, '--version', version, ...more);
  }

  /** In appliance `w`: `act` returns when it has synced what it did. */
  function write(path: string, content: string, isAtomic: boolean, act: (file: string) => void): void {
    const began = disk.position();
    act(join(view(WRITER), path));
    life.writes.push({ path, content, began, synced: disk.position(), isAtomic });
  }

  await step('daemon', 'start');
  await step('repo', 'add', 'local', join(disk.dir, 'units'));
  const tool = (n: number) => ({
    'usr/bin/tool': `tool ${n}\n`.repeat(500),
    'usr/share/tool/a': `a ${n}\n`,
    'usr/share/tool/b': `b ${n}\n`,
    'usr/share/tool/deep/c': `c ${n}\n`,
    'etc/tool.conf': 'shared\n',
  });
  await build('base', '1', { 'etc/motd': 'base\n', 'usr/share/base/doc': 'doc\n' });
  await build('tool', '1', tool(1), ['--depends', 'base']);
  await build('other', '1', { 'usr/bin/other': 'other\n' });
  const archive = join(work, 'extra_1.tar');
  const tree = join(work, 'trees/other_1');
  execFileSync('tar', ['-C', tree, '-cf', archive, '.']);
  await step('layer', 'import', archive, '--repo', 'local');
  await step('template', 'create', 't', 'tool');
  await step('template', 'create', 'two', 'base', '--from', 't');
  await step('create', 'a', '--template', 't');
  await step('create', 'n', '--template', 't', '--count', '5');
  await step('create', 'own', '--template', 't', 'other');
  await step('create', WRITER, '--template', 't');
  await build('tool', '2', tool(2), ['--depends', 'base']);

  // Files that an appliance wrote, to be kept, reverted, frozen and reset.
  await s.json('mount', 'a', view('a'));
  await prepare('a', () => {
    writeFileSync(join(view('a'), 'etc/motd'), 'mine\n');
    writeFileSync(join(view('a'), 'etc/new'), 'new\n');
    writeFileSync(join(view('a'), 'usr/share/tool/a'), 'changed\n');
    rmSync(join(view('a'), 'usr/share/tool/b'));
    symlinkSync('motd', join(view('a'), 'etc/link'));
    rmSync(join(view('a'), 'usr/share/tool/deep'), { recursive: true });
  });
  await step('umount', 'a');
  await step('update', 't');
  await step('rollback', 't');
  await step('template', 'hold', 't', 'tool');
  await step('template', 'unhold', 't', 'tool');
  await step('revert', 'a', '/etc/motd', '/usr/share/tool/b');
  await step('template', 'add', 't', 'other');
  await step('template', 'remove', 't', 'other');
  await step('template', 'freeze', 't', '--from', 'a');
  await step('mount', 'a', view('a'));
  await prepare('a', () => {
    writeFileSync(join(view('a'), 'etc/one'), '1\n');
    writeFileSync(join(view('a'), 'etc/tool.conf'), '2\n');
    rmSync(join(view('a'), 'etc/new'));
    writeFileSync(join(view('a'), LOG), 'line\n'.repeat(20_000));
  });
  await cloneAndSync('a', 'mounted', 'etc/synced');
  await step('reset', 'a', '--keep', '/etc/one', '--keep', '/etc/tool.conf');
  await step('revert', 'a', '/etc/tool.conf');
  await step('umount', 'a');
  await step('clone', 'a', 'unmounted', '--mode', 'sync');
  await step('snapshot', 'unmounted', 'kept');
  await step('mount', 'unmounted', view('unmounted'));
  await prepare('unmounted', () => {
    writeFileSync(join(view('unmounted'), 'etc/one'), 'of the clone\n');
    mkdirSync(join(view('unmounted'), 'srv/clone'), { recursive: true });
    writeFileSync(join(view('unmounted'), 'srv/clone/new'), 'new\n');
    rmSync(join(view('unmounted'), 'usr/share/tool/deep'), { recursive: true, force: true });
  });
  await step('umount', 'unmounted');
  await step('merge', 'unmounted', 'a');
  await step('restore', 'unmounted', 'kept');
  await step('promote', 'unmounted');
  await step('delete', 'unmounted@kept');
  await step('ttl', 'unmounted', '4w');
  await step('delete', 'mounted');
  await step('import-dir', tree, 'imported', '--template', 't', '--quota', '10M');
  await step('clone', 'imported', 'imported-2');
  await step('quota', 'imported-2', '5M', '--inodes', '100');
  await step('delete', 'imported');
  await step('delete', 'n-1', 'n-2');
  await step('layer', 'remove', 'local/extra', '1');

  await step('mount', WRITER, view(WRITER));
  write('etc/fresh', 'fresh\n'.repeat(3000), false, (file) => {
    const fd = openSync(file, 'w');
    writeSync(fd, 'fresh\n'.repeat(3000));
    fsyncSync(fd);
    closeSync(fd);
  });
  write('usr/bin/tool', 'copied up\n', false, (file) => {
    writeFileSync(file, 'copied up\n', { flush: true });
  });
  write('usr/share/tool/a', 'replaced\n', true, (file) => {
    writeFileSync(`${file}.new`, 'replaced\n', { flush: true });
    renameSync(`${file}.new`, file);
    syncDirectory(dirname(file));
  });
  write('usr/share/base/doc', DELETED, true, (file) => {
    rmSync(file);
    syncDirectory(dirname(file));
  });
  write('srv/x/y/file', 'deep\n', false, (file) => {
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, 'deep\n', { flush: true });
    syncDirectory(dirname(file));
  });
  await step('update', 't');
  write('usr/share/tool/deep/c', 'appended\n', false, (file) => {
    const fd = openSync(file, 'r+');
    writeSync(fd, 'appended\n', 0);
    fdatasyncSync(fd);
    closeSync(fd);
  });
  write('etc/fresh', GONE, true, (file) => {
    renameSync(file, join(dirname(file), 'moved'));
    syncDirectory(dirname(file));
  });
  life.writes.push({ ...life.writes.at(-1)!, path: 'etc/moved', content: 'fresh\n'.repeat(3000) });
  await step('umount', WRITER);

  const sealed = await s.run(['mount', 'n-3', view('n-3'), '--door', 'sealed']);
  if (sealed.status === 0) {
    await prepare('n-3', () => {
      writeFileSync(join(view('n-3'), 'etc/motd'), 'sealed\n');
      rmSync(join(view('n-3'), 'usr/share/tool/deep'), { recursive: true });
      rmSync(join(view('n-3'), 'usr/share/tool/b'));
    });
    await step('umount', 'n-3');
  }
  await step('gc', '--keep', '1');
  await step('template', 'delete', 'two');
  await step('repo', 'add', 'second', join(disk.dir, 'second'));
  await step('repo', 'remove', 'second');
  await s.json('daemon', 'stop');
  return life;
}

function syncDirectory(dir: string): void {
  const fd = openSync(dir, 'r');
  fsyncSync(fd);
  closeSync(fd);
}
