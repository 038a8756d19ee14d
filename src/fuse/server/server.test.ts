import assert from 'node:assert/strict';
import { closeSync, mkdirSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import fc from 'fast-check';
import { randomRuns } from '../../base/random-runs.test-support.ts';
import { E } from '../../sys/index.ts';
import { PENDING } from '../../vlfs/contract.ts';
import { FOPEN, FUSE_INIT, FUSE_INIT2, FUSE_OPCODE as OP } from '../abi/constants.ts';
import { DIRENTPLUS, ENTRY_OUT, IN_HEADER, INIT_IN, INIT_OUT, OPEN_OUT, OUT_HEADER } from '../abi/layout.ts';
import type { ServedVlfs } from '../loop/served-vlfs.ts';
import { openVlfs } from '../test-support/mirror-vfs.ts';
import { mirrorSpec } from '../test-support/with-data-plane.ts';
import { createBackingTable } from './backing-table.ts';
import { createFuseBuffers, getI64, getU64, putU64 } from './buffers.ts';
import { createFuseServer, type FuseServer } from './server.ts';

const buffers = createFuseBuffers();
const { requestView: request, replyView: reply } = buffers;
let dir = '';
let vlfs: ServedVlfs;

before(() => {
  dir = mkdtempSync(join(tmpdir(), 'strata-fuse-server-'));
  mkdirSync(join(dir, 'd'));
  writeFileSync(join(dir, 'd/f'), 'content');
});
after(() => rmSync(dir, { recursive: true, force: true }));

/** A server over `dir` and the exceptions it met. */
function newServer(): { server: FuseServer; exceptions: unknown[] } {
  const exceptions: unknown[] = [];
  vlfs = openVlfs(mirrorSpec('a-plain', dir));
  const server = createFuseServer({
    ops: vlfs,
    buffers,
    backingDevice: null,
    onException: (_opcode, error) => exceptions.push(error),
  });
  return { server, exceptions };
}

/** Sends one request; the reply's error (negative errno or 0), or null when there is no reply. */
function send(server: FuseServer, opcode: number, node: number, body: Uint8Array): number | null {
  buffers.request.fill(0, 0, IN_HEADER.size);
  buffers.request.set(body, IN_HEADER.size);
  request.setUint32(IN_HEADER.len, IN_HEADER.size + body.length, true);
  request.setUint32(IN_HEADER.opcode, opcode, true);
  putU64(request, IN_HEADER.unique, 77);
  putU64(request, IN_HEADER.nodeid, node);
  const length = server.handle(IN_HEADER.size + body.length);
  if (length === PENDING) {
    server.takeJob();
    return PENDING;
  }
  if (length === 0) return null;
  assert.ok(length >= OUT_HEADER.size && length <= buffers.reply.length);
  assert.equal(reply.getUint32(OUT_HEADER.len, true), length);
  assert.equal(getU64(reply, OUT_HEADER.unique), 77);
  return reply.getInt32(OUT_HEADER.error, true);
}

function initBody(minor: number, flags: number, flags2: number): Uint8Array {
  const body = new Uint8Array(INIT_IN.size);
  const view = new DataView(body.buffer);
  view.setUint32(INIT_IN.major, 7, true);
  view.setUint32(INIT_IN.minor, minor, true);
  view.setUint32(INIT_IN.flags, flags >>> 0, true);
  view.setUint32(INIT_IN.flags2, flags2 >>> 0, true);
  return body;
}

function initialized(): { server: FuseServer; exceptions: unknown[] } {
  const made = newServer();
  assert.equal(send(made.server, OP.INIT, 0, initBody(45, -1, -1)), 0);
  return made;
}

const text = (name: string): Uint8Array => Buffer.from(`${name}\0`, 'latin1');

test('INIT takes what is offered and wanted, and does without the rest', () => {
  const { server } = initialized();
  const all = reply.getUint32(OUT_HEADER.size + INIT_OUT.flags, true);
  assert.equal(all & FUSE_INIT.WRITEBACK_CACHE, 0, 'the writeback cache excludes passthrough');
  assert.equal(all & (FUSE_INIT.POSIX_LOCKS | FUSE_INIT.FLOCK_LOCKS), 0, "locks are the kernel's");
  assert.ok((reply.getUint32(OUT_HEADER.size + INIT_OUT.flags2, true) & FUSE_INIT2.PASSTHROUGH) !== 0);
  assert.deepEqual(server.features?.passthrough, true);
  const old = newServer();
  assert.equal(send(old.server, OP.INIT, 0, initBody(31, FUSE_INIT.BIG_WRITES, -1)), 0);
  assert.equal(reply.getUint32(OUT_HEADER.size + INIT_OUT.flags, true), FUSE_INIT.BIG_WRITES);
  assert.equal(reply.getUint32(OUT_HEADER.size + INIT_OUT.flags2, true), 0);
  assert.equal(old.server.features?.passthrough, false);
  assert.equal(old.server.features?.incEpoch, false);
  const ancient = newServer();
  assert.equal(send(ancient.server, OP.INIT, 0, initBody(20, 0, 0)), -71);
  assert.equal(send(ancient.server, OP.LOOKUP, 1, text('d')), -E.IO, 'nothing is served before INIT');
});

test('wrong requests get an errno: short, without NUL, unknown, of impossible size', () => {
  const { server, exceptions } = initialized();
  assert.equal(send(server, OP.LOOKUP, 1, text('d')), 0);
  assert.equal(send(server, OP.LOOKUP, 1, Buffer.from('unterminated')), -E.INVAL);
  assert.equal(send(server, OP.LOOKUP, 1, text('a/b')), -E.INVAL);
  assert.equal(send(server, OP.LOOKUP, 1, text('..')), -E.INVAL);
  assert.equal(send(server, OP.LOOKUP, 1, text('n'.repeat(256))), -E.NAMETOOLONG);
  assert.equal(send(server, OP.LOOKUP, 1, new Uint8Array(1)), -E.INVAL);
  assert.equal(send(server, OP.RENAME2, 1, new Uint8Array(8)), -E.INVAL);
  assert.equal(send(server, OP.SYMLINK, 1, text('only-one-name')), -E.INVAL);
  assert.equal(send(server, 52_000, 1, new Uint8Array(0)), -E.NOSYS);
  assert.equal(send(server, OP.FORGET, 1, new Uint8Array(3)), null);
  const write = new Uint8Array(40);
  new DataView(write.buffer).setUint32(16, 5000, true);
  assert.equal(send(server, OP.WRITE, 1, write), -E.INVAL, 'more data than the request carries');
  putU64(new DataView(write.buffer), 8, -1);
  assert.equal(send(server, OP.WRITE, 1, write), -E.FBIG);
  assert.equal(send(server, OP.INTERRUPT, 0, new Uint8Array(8)), null);
  request.setUint32(IN_HEADER.len, 9, true);
  assert.equal(server.handle(IN_HEADER.size), OUT_HEADER.size, 'a length that lies');
  assert.equal(reply.getInt32(OUT_HEADER.error, true), -E.INVAL);
  assert.equal(server.handle(10), 0);
  assert.deepEqual(exceptions, []);
});

test('random requests never crash the server and never make a reply of wrong length', () => {
  const { server, exceptions } = initialized();
  // Requests that change the host's tree are left to the mounts in data-plane.test.ts.
  const harmless = Object.values(OP).filter(
    (op) =>
      ![
        OP.INIT,
        OP.DESTROY,
        OP.MKNOD,
        OP.MKDIR,
        OP.SYMLINK,
        OP.UNLINK,
        OP.RMDIR,
        OP.RENAME,
        OP.RENAME2,
      ].includes(op as never) &&
      ![OP.LINK, OP.CREATE, OP.SETATTR, OP.WRITE, OP.RELEASE, OP.RELEASEDIR, OP.FALLOCATE, OP.READ].includes(
        op as never,
      ),
  );
  fc.assert(
    fc.property(
      fc.oneof(fc.constantFrom(...harmless), fc.integer({ min: 54, max: 2 ** 31 })),
      fc.oneof(fc.integer({ min: 0, max: 3 }), fc.maxSafeNat()),
      fc.uint8Array({ maxLength: 200 }),
      fc.integer({ min: 0, max: 40 }),
      (opcode, node, body, extlen) => {
        buffers.request.fill(0xff, IN_HEADER.size, 400);
        request.setUint16(IN_HEADER.total_extlen, extlen, true);
        send(server, opcode, node, body);
      },
    ),
    randomRuns(3000),
  );
  assert.deepEqual(exceptions, []);
});

test('random requests of every kind, answered at random, never crash the server', () => {
  const { server, exceptions } = initialized();
  const answers = fc.sample(fc.integer({ min: -40, max: 40 }), randomRuns(500));
  let asked = 0;
  const anything = new Proxy(vlfs, {
    get: (target, name) =>
      name === 'init'
        ? target.init
        : () => (name === 'destroy' ? undefined : answers[asked++ % answers.length]!),
  });
  const wild = createFuseServer({
    ops: anything,
    buffers,
    backingDevice: null,
    onException: (_opcode, error) => exceptions.push(error),
  });
  assert.equal(send(wild, OP.INIT, 0, initBody(45, -1, -1)), 0);
  fc.assert(
    fc.property(
      fc.constantFrom(...Object.values(OP).filter((op) => op !== OP.INIT)),
      fc.oneof(fc.integer({ min: 0, max: 3 }), fc.maxSafeNat()),
      fc.uint8Array({ maxLength: 300 }),
      (opcode, node, body) => {
        send(wild, opcode, node, body);
        wild.revokeLast();
      },
    ),
    randomRuns(5000),
  );
  assert.deepEqual(exceptions, []);
  assert.equal(send(server, OP.LOOKUP, 1, text('d')), 0);
});

test('what a reply gave is taken back when the kernel did not take it', () => {
  const { server } = initialized();
  const forgotten: number[] = [];
  const released: number[] = [];
  const real = { ...vlfs };
  vlfs.forget = (node, count) => {
    forgotten.push(node);
    real.forget(node, count);
  };
  assert.equal(send(server, OP.LOOKUP, 1, text('d')), 0);
  const node = getU64(reply, OUT_HEADER.size + ENTRY_OUT.nodeid);
  server.revokeLast();
  server.revokeLast();
  assert.deepEqual(forgotten, [node]);
  vlfs.release = (n, fh) => {
    released.push(fh);
    return real.release(n, fh);
  };
  send(server, OP.LOOKUP, 1, text('d'));
  const parent = getU64(reply, OUT_HEADER.size + ENTRY_OUT.nodeid);
  send(server, OP.LOOKUP, parent, text('f'));
  const file = getU64(reply, OUT_HEADER.size + ENTRY_OUT.nodeid);
  assert.equal(send(server, OP.OPEN, file, new Uint8Array(8)), 0);
  const fh = getU64(reply, OUT_HEADER.size + OPEN_OUT.fh);
  server.revokeLast();
  assert.deepEqual(released, [fh]);
  assert.equal(send(server, OP.OPENDIR, 1, new Uint8Array(8)), 0);
  const readdir = new Uint8Array(40);
  const view = new DataView(readdir.buffer);
  putU64(view, 0, getU64(reply, OUT_HEADER.size + OPEN_OUT.fh));
  view.setUint32(16, 4096, true);
  forgotten.length = 0;
  assert.equal(send(server, OP.READDIRPLUS, 1, readdir), 0);
  assert.ok(reply.getUint32(OUT_HEADER.len, true) > 3 * DIRENTPLUS.name);
  server.revokeLast();
  assert.deepEqual(forgotten, [parent], "'.' and '..' count no lookup");
});

test('64-bit numbers survive as two halves', () => {
  const view = new DataView(new ArrayBuffer(8));
  fc.assert(
    fc.property(fc.maxSafeInteger(), (n) => {
      putU64(view, 0, n);
      assert.equal(view.getBigInt64(0, true), BigInt(n));
      assert.equal(getI64(view, 0), n);
      if (n >= 0) assert.equal(getU64(view, 0), n);
    }),
    randomRuns(100),
  );
  view.setBigUint64(0, 2n ** 53n, true);
  assert.equal(getU64(view, 0), -1);
});

test('one backing id a node while passthrough opens live; never together with cached opens', () => {
  const log: string[] = [];
  let next = 1;
  const table = createBackingTable({
    open: (fd) => {
      log.push(`open ${fd}`);
      return next++;
    },
    close: (id) => log.push(`close ${id}`),
  });
  const open = (fh: number, backingFd: number, directIo = false) =>
    ({ fh, backingFd, backingReadOnly: true, directIo, keepCache: false, keepsBacking: false }) as const;
  assert.equal(table.opened(5, open(1, -1), false), 0, 'not enabled: cached');
  table.enabled = true;
  assert.equal(table.opened(5, open(2, 30), false), 0, 'cached opens live');
  table.released(5, 1);
  table.released(5, 2);
  assert.equal(table.opened(5, open(3, 30), false), FOPEN.PASSTHROUGH);
  assert.equal(table.backingId(), 1);
  assert.equal(table.opened(5, open(4, 31), false), FOPEN.PASSTHROUGH);
  assert.equal(table.backingId(), 1);
  assert.equal(table.opened(5, open(6, 31, true), false), FOPEN.PASSTHROUGH | FOPEN.DIRECT_IO);
  assert.equal(table.opened(5, open(7, -1), false), -E.TXTBSY);
  for (const fh of [3, 4, 6]) table.released(5, fh);
  assert.deepEqual(log, ['open 30', 'close 1']);
  assert.equal(table.opened(5, open(8, -1, true), false) & FOPEN.DIRECT_IO, FOPEN.DIRECT_IO);
});

test('a backing id outlives the last release while the VLFS keeps the file open', () => {
  const log: string[] = [];
  let next = 1;
  const table = createBackingTable({
    open: (fd) => {
      log.push(`open ${fd}`);
      return next++;
    },
    close: (id) => log.push(`close ${id}`),
  });
  table.enabled = true;
  const open = (fh: number, backingFd: number) =>
    ({
      fh,
      backingFd,
      backingReadOnly: true,
      directIo: false,
      keepCache: false,
      keepsBacking: true,
    }) as const;
  for (const fh of [1, 2]) {
    assert.equal(table.opened(5, open(fh, 30), false), FOPEN.PASSTHROUGH);
    assert.equal(table.backingId(), 1);
    table.released(5, fh);
  }
  assert.deepEqual(log, ['open 30']);
  table.closed(5);
  assert.deepEqual(log, ['open 30', 'close 1']);
  assert.equal(table.opened(5, open(3, 31), false), FOPEN.PASSTHROUGH);
  assert.equal(table.backingId(), 2, 'another file');
  table.closed(5);
  assert.deepEqual(log.slice(2), ['open 31'], 'not while it is open');
});

test('only what nobody writes, or what root made, is given to the kernel with privileges', () => {
  const given: boolean[] = [];
  const table = createBackingTable({
    open: (_fd, privileged) => given.push(privileged),
    close: () => {},
  });
  table.enabled = true;
  const open = (fh: number, backingReadOnly = false) =>
    ({ fh, backingFd: 30, backingReadOnly, directIo: false, keepCache: true, keepsBacking: true }) as const;
  assert.equal(table.opened(1, open(1), true), FOPEN.PASSTHROUGH);
  table.released(1, 1);
  assert.equal(table.opened(1, open(2), false), FOPEN.PASSTHROUGH, 'given once more');
  assert.equal(table.opened(1, open(3), true), FOPEN.PASSTHROUGH);
  assert.equal(table.opened(2, open(4, true), false), FOPEN.PASSTHROUGH);
  assert.deepEqual(given, [true, false, true]);
});

test('a descriptor that the kernel refuses for good turns passthrough off', () => {
  let asked = 0;
  const table = createBackingTable({
    open: () => {
      asked++;
      return -E.LOOP;
    },
    close: () => {},
  });
  table.enabled = true;
  const fd = openSync(join(dir, 'd/f'), 'r');
  assert.equal(
    table.opened(
      1,
      { fh: 1, backingFd: fd, backingReadOnly: true, directIo: false, keepCache: true, keepsBacking: false },
      false,
    ),
    FOPEN.KEEP_CACHE,
  );
  assert.equal(
    table.opened(
      2,
      { fh: 2, backingFd: fd, backingReadOnly: true, directIo: false, keepCache: true, keepsBacking: false },
      false,
    ),
    FOPEN.KEEP_CACHE,
  );
  assert.equal(asked, 1);
  closeSync(fd);
});
