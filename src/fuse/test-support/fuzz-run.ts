/**
 * Fuzzing a real VLFS through the protocol server: random requests, their jobs run late and out of order, control operations between them, and the tree
 * beside the private layer watched. The private layer stands on a small tmpfs, so that it fills up too.
 */
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { until } from '../../base/until.test-support.ts';
import { writeTreeIndex } from '../../layer/index.ts';
import * as sys from '../../sys/index.ts';
import { PENDING, type RelayerWork, type SlowJob, type StackSpec } from '../../vlfs/contract.ts';
import { closeIdleStacks, openVlfs, type Vlfs } from '../../vlfs/index.ts';
import { FUSE_OPCODE as OP } from '../abi/constants.ts';
import { ATTR, ENTRY_OUT, IN_HEADER, INIT_IN, OPEN_OUT, OUT_HEADER } from '../abi/layout.ts';
import { type PoolJob, runPoolJob } from '../pool/jobs.ts';
import { createFuseBuffers, getU64, putU64 } from '../server/buffers.ts';
import { createFuseServer, type FuseServer } from '../server/server.ts';
import { type FuzzRequest, fuzzRequest, type Known, type Random, randomFrom } from './fuzz-requests.ts';

const buffers = createFuseBuffers();
const { requestView: request, replyView: reply } = buffers;
const ENTRY_REPLIES = new Set<number>([
  OP.LOOKUP,
  OP.MKNOD,
  OP.MKDIR,
  OP.SYMLINK,
  OP.LINK,
  OP.CREATE,
  OP.TMPFILE,
]);
const KEPT = 200;

/** Everything about a tree that an escape could change, as one digest. */
function fingerprint(dir: string): string {
  const digest = createHash('sha256');
  const walk = (path: string): void => {
    const stat = fs.lstatSync(path);
    const { mode, uid, gid, size, mtimeMs, ctimeMs, nlink } = stat;
    digest.update(JSON.stringify([path, mode, uid, gid, size, mtimeMs, ctimeMs, nlink]));
    if (stat.isFile()) digest.update(fs.readFileSync(path));
    if (stat.isDirectory()) for (const name of fs.readdirSync(path).sort()) walk(join(path, name));
  };
  walk(dir);
  return digest.digest('hex');
}

function makeTrees(dir: string): void {
  const write = (path: string, content: string | Buffer): void => {
    fs.mkdirSync(join(dir, path, '..'), { recursive: true });
    fs.writeFileSync(join(dir, path), content);
  };
  write('outside/canary', 'outside');
  write('outside/etc/conf', 'outside');
  for (const unit of ['one', 'two']) {
    const tree = `repo/${unit}/filesystem`;
    write(`${tree}/etc/conf${unit === 'one' ? '' : '2'}`, unit);
    write(`${tree}/usr/sub/file-${unit}`, unit);
    write(`${tree}/usr/a/b/c`, unit);
  }
  write('repo/one/filesystem/etc/large', Buffer.alloc(400_000, 'large'));
  write('repo/one/filesystem/usr/hard', 'hard');
  fs.linkSync(join(dir, 'repo/one/filesystem/usr/hard'), join(dir, 'repo/one/filesystem/etc/twin'));
  fs.symlinkSync('../../outside', join(dir, 'repo/one/filesystem/up'));
  fs.symlinkSync(join(dir, 'outside/canary'), join(dir, 'repo/one/filesystem/link'));
  fs.rmSync(join(dir, 'repo/two/filesystem/usr/a/b/c'));
}

async function stacks(dir: string): Promise<StackSpec[]> {
  const levels = [];
  for (const unit of ['one', 'two']) {
    const treeDir = join(dir, `repo/${unit}/filesystem`);
    const indexFile = join(dir, `repo/${unit}/index`);
    await writeTreeIndex(indexFile, treeDir);
    levels.push({ kind: 'software' as const, id: `main/${unit} 1`, treeDir, indexFile, whiteoutsDir: null });
  }
  return [
    { key: 'both', levels },
    { key: 'first', levels: levels.slice(0, 1) },
    { key: 'none', levels: [] },
  ];
}

/** Open descriptors of what lies below a directory. */
function openDescriptors(dir: string): Map<string, string> {
  const found = new Map<string, string>();
  for (const fd of fs.readdirSync('/proc/self/fd')) {
    try {
      const target = fs.readlinkSync(`/proc/self/fd/${fd}`);
      if (target.startsWith(dir)) found.set(fd, target);
    } catch {
      // The one of this listing.
    }
  }
  return found;
}

interface Run {
  r: Random;
  known: Known;
  vlfs: Vlfs;
  server: FuseServer;
  faults: string[];
  requests: number;
  /** Jobs under way, with the requests that wait for them. */
  jobs: Map<SlowJob, Buffer[]>;
  stacks: StackSpec[];
  /** A relayer under way. */
  work: RelayerWork | null;
}

/** Runs random requests from `seed` on trees in the empty directory `dir` until `goOn` says no. Throws an AssertionError at the first fault. */
export async function fuzz(dir: string, seed: number, goOn: (requests: number) => boolean): Promise<number> {
  makeTrees(dir);
  const all = await stacks(dir);
  const appliance = join(dir, 'appliance');
  fs.mkdirSync(appliance);
  assert.equal(sys.mount('tmpfs', appliance, 'tmpfs', 0, 'size=24m,nr_inodes=4000,mode=755'), 0);
  fs.mkdirSync(join(appliance, 'whiteouts'));
  try {
    const before = ['outside', 'repo'].map((name) => fingerprint(join(dir, name)));
    const descriptors = openDescriptors(dir);
    const requests = await session(appliance, all, seed, goOn);
    closeIdleStacks();
    const remaining = () => [...openDescriptors(dir)].filter(([fd]) => !descriptors.has(fd));
    // A deletion in the background ends by itself.
    await until(`seed ${seed} leaves no descriptor open`, () => {
      assert.deepEqual(remaining(), []);
      return true;
    });
    const after = ['outside', 'repo'].map((name) => fingerprint(join(dir, name)));
    assert.deepEqual(after, before, 'something outside of the private layer changed');
    return requests;
  } finally {
    sys.umount(appliance, sys.MNT_DETACH);
  }
}

async function session(
  appliance: string,
  all: StackSpec[],
  seed: number,
  goOn: (requests: number) => boolean,
): Promise<number> {
  const faults: string[] = [];
  const fault = (where: string, error: unknown) =>
    faults.push(`${where}: ${error instanceof Error ? error.stack : error}`);
  const spec = {
    name: 'fuzz',
    privateDir: join(appliance, 'private'),
    whiteoutsDir: join(appliance, 'whiteouts'),
    stack: all[0]!,
    readOnly: false,
  };
  const open = (): { vlfs: Vlfs; server: FuseServer } => {
    const vlfs = openVlfs(spec, {
      onFault: fault,
      // A thread that still starts when the test ends would break its process.
      background: false,
      onBackingClosed: (node) => server.backing.closed(node),
    });
    const backingIds = new Set<number>();
    let nextId = 1;
    const server = createFuseServer({
      ops: vlfs,
      buffers,
      backingDevice: {
        open(fd) {
          if (sys.fstat(fd, sys.newStat()) < 0) fault('backing', `${fd} is not open`);
          backingIds.add(nextId);
          return nextId++;
        },
        close(id) {
          if (!backingIds.delete(id)) fault('backing', `${id} was closed twice`);
        },
      },
      onException: fault,
    });
    send(server, { opcode: OP.INIT, node: 0, uid: 0, body: initBody(), lie: 0, extlen: 0 });
    return { vlfs, server };
  };
  const run: Run = {
    ...open(),
    r: randomFrom(seed),
    known: { nodes: [1], directories: [1], handles: [] },
    faults,
    requests: 0,
    jobs: new Map(),
    work: null,
    stacks: all,
  };
  while (goOn(run.requests)) {
    await step(run);
    if (run.r.once(2000)) {
      await endJobs(run);
      run.work?.abort();
      run.work = null;
      run.server.destroy();
      Object.assign(run, open());
      run.known = { nodes: [1], directories: [1], handles: [] };
    }
    assert.deepEqual(faults, [], `seed ${seed}, request ${run.requests}`);
  }
  await endJobs(run);
  run.work?.abort();
  run.server.destroy();
  assert.deepEqual(faults, [], `seed ${seed}, at the end`);
  return run.requests;
}

function initBody(): Buffer {
  const body = Buffer.alloc(INIT_IN.size, 0xff);
  body.writeUInt32LE(7, INIT_IN.major);
  body.writeUInt32LE(45, INIT_IN.minor);
  return body;
}

function send(server: FuseServer, { opcode, node, uid, body, lie, extlen }: FuzzRequest): number {
  buffers.request.fill(0, 0, IN_HEADER.size);
  buffers.request.set(body, IN_HEADER.size);
  const length = IN_HEADER.size + body.length;
  request.setUint32(IN_HEADER.len, length + lie, true);
  request.setUint32(IN_HEADER.opcode, opcode, true);
  putU64(request, IN_HEADER.unique, 77);
  putU64(request, IN_HEADER.nodeid, node);
  request.setUint32(IN_HEADER.uid, uid, true);
  request.setUint16(IN_HEADER.total_extlen, extlen, true);
  return server.handle(length);
}

async function step(run: Run): Promise<void> {
  const { r } = run;
  run.requests++;
  if (run.work !== null && r.once(8)) return stepRelayer(run, run.work);
  if (r.once(300)) return control(run);
  if (run.jobs.size > 0 && r.once(4)) return endOneJob(run);
  const asked = fuzzRequest(r, run.known);
  const length = send(run.server, asked);
  if (length === PENDING) defer(run, IN_HEADER.size + asked.body.length);
  else take(run, asked.opcode, length);
}

function defer(run: Run, length: number): void {
  const job = run.server.takeJob();
  const bytes = Buffer.from(buffers.request.subarray(0, length));
  run.jobs.set(job, [...(run.jobs.get(job) ?? []), bytes]);
}

async function endJobs(run: Run): Promise<void> {
  while (run.jobs.size > 0) await endOneJob(run);
}

async function endOneJob(run: Run): Promise<void> {
  const [job, requests] = run.r.pick([...run.jobs]);
  run.jobs.delete(job);
  const result = await execute(job);
  (job as { done?: (errno: number) => void }).done?.(Math.min(result, 0));
  for (const bytes of requests) {
    bytes.copy(buffers.request);
    const opcode = request.getUint32(IN_HEADER.opcode, true);
    if (job.then === 'retry' && result >= 0) {
      const length = run.server.handle(bytes.length);
      if (length === PENDING) defer(run, bytes.length);
      else take(run, opcode, length);
    } else take(run, opcode, run.server.answerJob(result));
  }
}

async function execute(job: SlowJob): Promise<number> {
  if (job.kind !== 'steps') {
    const { done: _done, ...plain } = job as PoolJob & { done?: unknown };
    return await runPoolJob(plain as PoolJob);
  }
  for (;;) {
    const result = job.advance(0);
    if (result !== null) return result;
  }
}

/** Checks a reply and keeps what it gave. */
function take(run: Run, opcode: number, length: number): void {
  const { known, r } = run;
  if (length === 0) return;
  assert.ok(length >= OUT_HEADER.size && length <= buffers.reply.length, `a reply of ${length} bytes`);
  assert.equal(reply.getUint32(OUT_HEADER.len, true), length);
  assert.equal(getU64(reply, OUT_HEADER.unique), 77);
  const errno = reply.getInt32(OUT_HEADER.error, true);
  assert.ok(errno <= 0 && errno > -512, `error ${errno} of opcode ${opcode}`);
  // EIO is what became of an exception, or of a disk that failed.
  assert.notEqual(errno, -sys.E.IO, `EIO of opcode ${opcode}: ${run.faults}`);
  if (errno < 0) {
    assert.equal(length, OUT_HEADER.size);
    return;
  }
  if (r.once(50)) {
    run.server.revokeLast();
    return;
  }
  if (ENTRY_REPLIES.has(opcode)) {
    const node = getU64(reply, OUT_HEADER.size + ENTRY_OUT.nodeid);
    const mode = reply.getUint32(OUT_HEADER.size + ENTRY_OUT.attr + ATTR.mode, true);
    keep(r, known.nodes, node);
    if ((mode & sys.S_IFMT) === sys.S_IFDIR) keep(r, known.directories, node);
  }
  const at = opcode === OP.OPEN ? 0 : opcode === OP.CREATE || opcode === OP.TMPFILE ? ENTRY_OUT.size : -1;
  if (at >= 0) keep(r, known.handles, getU64(reply, OUT_HEADER.size + at + OPEN_OUT.fh));
}

function keep(r: Random, values: number[], value: number): void {
  if (value <= 0 && values.length > 0) return;
  if (values.length < KEPT) values.push(value);
  else values[1 + r.below(KEPT - 1)] = value;
}

/** One step of a relayer, between requests; it may be given up. */
function stepRelayer(run: Run, work: RelayerWork): void {
  try {
    const went = work.step(0);
    if (went !== 'more' && went !== 'ready') (went as { done?: (errno: number) => void }).done?.(0);
    if (went === 'more' ? !run.r.once(50) : went !== 'ready') return;
    run.work = null;
    if (went === 'more' || run.r.once(4)) {
      work.abort();
      return;
    }
    work.names();
    work.commit();
    while (work.step(0) !== 'ready');
  } catch (error) {
    run.work = null;
    assert.equal((error as Error).name, 'StrataError', (error as Error).stack);
  }
}

/** What the data plane does between requests; a refusal is no fault. */
function control(run: Run): void {
  if (run.work !== null) return;
  const { r, vlfs, stacks: all } = run;
  const path = r.pick(['/', '/etc', '/usr', '/etc/conf', '/usr/sub', '/a', '/../outside', '/up/canary']);
  try {
    switch (r.below(4)) {
      case 0: {
        const stack = r.pick(all);
        const files = r.once(2) ? [{ path: 'etc/conf', content: Buffer.from('new') }] : [];
        if (r.once(2)) vlfs.relayer(stack, files);
        else run.work = vlfs.beginRelayer(stack, files);
        break;
      }
      case 1:
        vlfs.revert([path]);
        break;
      case 2:
        vlfs.reset(r.once(2) ? [path] : []);
        break;
      default:
        vlfs.takeListed();
    }
    vlfs.takeStaleNames();
  } catch (error) {
    assert.equal((error as Error).name, 'StrataError', (error as Error).stack);
  }
}
