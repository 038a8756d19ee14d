/** Extended attributes: user, trusted, security; their flags, sizes and errors; file capabilities. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import * as fs from 'node:fs';
import { join } from 'node:path';
import {
  fgetxattr,
  flistxattr,
  fremovexattr,
  fsetxattr,
  splitXattrList,
  XATTR_CREATE,
  XATTR_REPLACE,
} from '../../../src/sys/index.ts';
import type { Topic } from './behaviour.ts';
import { ALICE, as, BOB, ok, python, refused, tool, withFile } from './behaviour.ts';

function plant(dir: string): void {
  fs.writeFileSync(join(dir, 'f'), 'content');
  fs.writeFileSync(join(dir, 'bare'), 'content');
  fs.mkdirSync(join(dir, 'd'));
  fs.symlinkSync('f', join(dir, 'link'));
  fs.writeFileSync(join(dir, 'cap'), 'program');
  fs.chmodSync(join(dir, 'cap'), 0o777);
  tool('setcap', 'cap_net_raw+ep', join(dir, 'cap'));
  for (const name of ['f', 'd']) {
    withFile(join(dir, name), 'r', (fd) => {
      ok(fsetxattr(fd, 'user.one', Buffer.from('1')));
      ok(fsetxattr(fd, 'user.empty', Buffer.alloc(0)));
      ok(fsetxattr(fd, 'trusted.two', Buffer.from([0, 255, 0])));
    });
  }
}

const names = (fd: number) =>
  splitXattrList(flistxattr(fd) as Uint8Array)
    .filter((n) => !n.startsWith('security.selinux'))
    .sort();
const value = (fd: number, name: string) => {
  const got = fgetxattr(fd, name);
  return typeof got === 'number' ? got : Buffer.from(got).toString('latin1');
};

export const xattrs: Topic = {
  name: 'xattrs',
  plant,
  behaviours: {
    'what was planted is there, for files and directories, empty values and zero bytes too'(dir) {
      for (const name of ['f', 'd']) {
        withFile(join(dir, name), 'r', (fd) => {
          assert.deepEqual(names(fd), ['trusted.two', 'user.empty', 'user.one']);
          assert.deepEqual(
            [value(fd, 'user.one'), value(fd, 'user.empty'), value(fd, 'trusted.two')],
            ['1', '', '\0\xff\0'],
          );
        });
      }
    },
    'set, replace, remove'(dir) {
      for (const name of ['f', 'd', 'bare']) {
        withFile(join(dir, name), 'r', (fd) => {
          ok(fsetxattr(fd, 'user.new', Buffer.from('new')));
          ok(fsetxattr(fd, 'user.one', Buffer.from('longer than before')));
          assert.equal(value(fd, 'user.new'), 'new');
          assert.equal(value(fd, 'user.one'), 'longer than before');
          ok(fremovexattr(fd, 'user.new'));
          refused('ENODATA', fgetxattr(fd, 'user.new'));
          refused('ENODATA', fremovexattr(fd, 'user.new'));
        });
      }
      assert.equal(fs.readFileSync(join(dir, 'f'), 'utf8'), 'content');
    },
    'CREATE and REPLACE'(dir) {
      withFile(join(dir, 'f'), 'r', (fd) => {
        refused('EEXIST', fsetxattr(fd, 'user.one', Buffer.from('x'), XATTR_CREATE));
        refused('ENODATA', fsetxattr(fd, 'user.none', Buffer.from('x'), XATTR_REPLACE));
        assert.equal(value(fd, 'user.one'), '1');
        ok(fsetxattr(fd, 'user.one', Buffer.from('x'), XATTR_REPLACE));
        ok(fsetxattr(fd, 'user.none', Buffer.from('y'), XATTR_CREATE));
        assert.deepEqual([value(fd, 'user.one'), value(fd, 'user.none')], ['x', 'y']);
      });
    },
    'names and values have limits, unknown name spaces are refused'(dir) {
      withFile(join(dir, 'f'), 'r', (fd) => {
        refused('ERANGE', fsetxattr(fd, `user.${'n'.repeat(251)}`, Buffer.from('x')));
        ok(fsetxattr(fd, `user.${'n'.repeat(250)}`, Buffer.from('x')));
        refused('E2BIG', fsetxattr(fd, 'user.big', Buffer.alloc(65537)));
        refused('ENOTSUP', fsetxattr(fd, 'unknown.name', Buffer.from('x')));
        refused('ENOTSUP', fgetxattr(fd, 'unknown.name'));
        ok(fsetxattr(fd, 'user.k', Buffer.alloc(3000, 'k')));
        assert.equal(value(fd, 'user.k'), 'k'.repeat(3000));
      });
    },
    'a buffer that is too small, and a question for the size'(dir) {
      python(
        `
import ctypes, ctypes.util, errno, sys
c = ctypes.CDLL(None, use_errno=True)
path = sys.argv[1].encode()
buf = ctypes.create_string_buffer(100)
assert c.getxattr(path, b'trusted.two', None, 0) == 3
assert c.getxattr(path, b'trusted.two', buf, 2) == -1 and ctypes.get_errno() == errno.ERANGE
assert c.getxattr(path, b'trusted.two', buf, 100) == 3 and buf.raw[:3] == b'\\0\\xff\\0'
assert c.listxattr(path, buf, 3) == -1 and ctypes.get_errno() == errno.ERANGE
assert c.listxattr(path, None, 0) == c.listxattr(path, buf, 100) > 20
`,
        join(dir, 'f'),
      );
    },
    'user attributes follow the file mode; a symlink has none; trusted ones are for root only'(dir) {
      fs.chownSync(join(dir, 'f'), ALICE.uid, ALICE.gid);
      withFile(join(dir, 'f'), 'r', (fd) => {
        as(BOB, () => refused('EACCES', fsetxattr(fd, 'user.bob', Buffer.from('x'))));
        as(ALICE, () => ok(fsetxattr(fd, 'user.alice', Buffer.from('x'))));
        as(ALICE, () => refused('EPERM', fsetxattr(fd, 'trusted.alice', Buffer.from('x'))));
        as(ALICE, () => refused('ENODATA', fgetxattr(fd, 'trusted.two')));
        as(ALICE, () => assert.equal(names(fd).includes('trusted.two'), false));
        as(ALICE, () =>
          refused(
            'EPERM',
            fsetxattr(fd, 'security.capability', Buffer.from([0, 0, 0, 2, ...new Array(16).fill(0)])),
          ),
        );
      });
      const set = spawnSync('setfattr', ['-h', '-n', 'user.x', '-v', '1', join(dir, 'link')], {
        encoding: 'utf8',
      });
      assert.match(set.stderr, /not permitted/);
      tool('setfattr', '-h', '-n', 'trusted.x', '-v', '1', join(dir, 'link'));
      assert.match(tool('getfattr', '-h', '-d', '-m', '-', join(dir, 'link')), /trusted.x="1"/);
      assert.equal(fs.readlinkSync(join(dir, 'link')), 'f');
    },
    'attributes stay through writes, chmod, rename and links'(dir) {
      fs.appendFileSync(join(dir, 'f'), '!');
      fs.chmodSync(join(dir, 'd'), 0o750);
      fs.renameSync(join(dir, 'f'), join(dir, 'moved'));
      fs.linkSync(join(dir, 'moved'), join(dir, 'd/linked'));
      fs.renameSync(join(dir, 'd'), join(dir, 'd2'));
      for (const name of ['moved', 'd2/linked', 'd2']) {
        withFile(join(dir, name), 'r', (fd) =>
          assert.deepEqual(names(fd), ['trusted.two', 'user.empty', 'user.one']),
        );
      }
    },
    'an attribute changes the change time, not the modification time'(dir) {
      fs.utimesSync(join(dir, 'f'), 1000, 1000);
      const before = fs.statSync(join(dir, 'f'), { bigint: true });
      withFile(join(dir, 'f'), 'r', (fd) => ok(fsetxattr(fd, 'user.t', Buffer.from('x'))));
      const after = fs.statSync(join(dir, 'f'), { bigint: true });
      assert.ok(after.ctimeNs > before.ctimeNs);
      assert.equal(after.mtimeMs, 1_000_000n);
    },
    'a file capability is kept by copies of its metadata and ended by any write'(dir) {
      const file = join(dir, 'cap');
      assert.match(tool('getcap', file), /cap_net_raw/);
      fs.chmodSync(file, 0o755);
      fs.renameSync(file, join(dir, 'cap2'));
      assert.match(tool('getcap', join(dir, 'cap2')), /cap_net_raw/);
      fs.appendFileSync(join(dir, 'cap2'), 'x');
      assert.equal(tool('getcap', join(dir, 'cap2')), '', 'by a write of root');
      tool('setcap', 'cap_net_raw+ep', join(dir, 'cap2'));
      fs.truncateSync(join(dir, 'cap2'), 3);
      assert.equal(tool('getcap', join(dir, 'cap2')), '', 'by a truncation of root');
      tool('setcap', 'cap_net_raw+ep', join(dir, 'cap2'));
      fs.chownSync(join(dir, 'cap2'), ALICE.uid, ALICE.gid);
      assert.equal(tool('getcap', join(dir, 'cap2')), '', 'by a change of owner');
    },
    'a capability set while a writer has the file open ends with its next write'(dir) {
      withFile(join(dir, 'bare'), 'r+', (fd) => {
        fs.writeSync(fd, 'a');
        tool('setcap', 'cap_net_raw+ep', join(dir, 'bare'));
        assert.match(tool('getcap', join(dir, 'bare')), /cap_net_raw/);
        fs.writeSync(fd, 'b');
        assert.equal(tool('getcap', join(dir, 'bare')), '');
      });
    },
    'twenty attributes'(dir) {
      withFile(join(dir, 'bare'), 'r', (fd) => {
        for (let i = 0; i < 20; i++) ok(fsetxattr(fd, `user.n${i}`, Buffer.from(`${i}`)));
        assert.equal(names(fd).length, 20);
        for (let i = 0; i < 20; i++) assert.equal(value(fd, `user.n${i}`), `${i}`);
      });
    },
  },
};
