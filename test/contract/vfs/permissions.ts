/** Who may do what: modes, owners, groups, sticky and set-group-id directories, umask, set-user-id bits. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import * as fs from 'node:fs';
import { join } from 'node:path';
import { copyFileRange, fallocate } from '../../../src/sys/index.ts';
import type { Topic } from './behaviour.ts';
import { ALICE, as, BOB, fails, ok, STAFF, tool, withFile, withUmask } from './behaviour.ts';

const mode = (path: string) => fs.lstatSync(path).mode & 0o7777;
const inStaff = { ...BOB, groups: [STAFF] };

function plant(dir: string): void {
  const owned = (name: string, bits: number, user = ALICE, gid = user.gid) => {
    fs.chownSync(join(dir, name), user.uid, gid);
    fs.chmodSync(join(dir, name), bits);
  };
  for (const name of ['f', 'private', 'staff', 'suid', 'sgid', 'locked'])
    fs.writeFileSync(join(dir, name), 'content\n');
  for (const name of ['open', 'sticky', 'setgid', 'closed', 'blind']) fs.mkdirSync(join(dir, name));
  fs.writeFileSync(join(dir, 'sticky/alices'), '');
  fs.writeFileSync(join(dir, 'closed/in'), '');
  fs.writeFileSync(join(dir, 'blind/in'), 'seen');
  owned('f', 0o644);
  owned('private', 0o600);
  owned('staff', 0o660, ALICE, STAFF);
  owned('suid', 0o4777);
  owned('sgid', 0o2777, ALICE, STAFF);
  owned('locked', 0o000);
  owned('sticky/alices', 0o666);
  owned('open', 0o777);
  owned('sticky', 0o1777, { uid: 0, gid: 0 });
  owned('setgid', 0o2777, ALICE, STAFF);
  owned('closed', 0o766);
  owned('blind', 0o711);
  fs.copyFileSync('/usr/bin/id', join(dir, 'id'));
  owned('id', 0o4755);
}

export const permissions: Topic = {
  name: 'permissions',
  plant,
  behaviours: {
    'owner, group and others are checked in this order'(dir) {
      const at = (name: string) => join(dir, name);
      as(BOB, () => fails('EACCES', () => fs.readFileSync(at('private'))));
      as(BOB, () => fails('EACCES', () => fs.writeFileSync(at('f'), 'x')));
      as(BOB, () => assert.equal(fs.readFileSync(at('f'), 'utf8'), 'content\n'));
      as(ALICE, () => fs.appendFileSync(at('f'), 'more\n'));
      assert.equal(fs.readFileSync(at('f'), 'utf8'), 'content\nmore\n');
      as(ALICE, () => fails('EACCES', () => fs.readFileSync(at('locked'))));
      fs.appendFileSync(at('locked'), 'root may');
      assert.equal(mode(at('locked')), 0);
    },
    'supplementary groups count'(dir) {
      as(BOB, () => fails('EACCES', () => fs.openSync(join(dir, 'staff'), 'r+')));
      as(inStaff, () => withFile(join(dir, 'staff'), 'r+', (fd) => fs.writeSync(fd, 'S')));
      assert.equal(fs.readFileSync(join(dir, 'staff'), 'utf8'), 'Sontent\n');
      const owner = fs.statSync(join(dir, 'staff'));
      assert.deepEqual([owner.uid, owner.gid, owner.mode & 0o7777], [ALICE.uid, STAFF, 0o660]);
    },
    'a directory needs x to walk through it and r to list it'(dir) {
      as(BOB, () => fails('EACCES', () => fs.statSync(join(dir, 'closed/in'))));
      as(BOB, () => assert.deepEqual(fs.readdirSync(join(dir, 'closed')), ['in']));
      as(BOB, () => fails('EACCES', () => fs.readdirSync(join(dir, 'blind'))));
      as(BOB, () => assert.equal(fs.readFileSync(join(dir, 'blind/in'), 'utf8'), 'seen'));
      as(BOB, () => fails('EACCES', () => fs.writeFileSync(join(dir, 'blind/new'), '')));
      as(BOB, () => fails('EACCES', () => fs.unlinkSync(join(dir, 'blind/in'))));
      as(BOB, () => fails('EACCES', () => fs.renameSync(join(dir, 'blind/in'), join(dir, 'open/in'))));
    },
    'in a sticky directory only the owner removes and renames'(dir) {
      const file = join(dir, 'sticky/alices');
      as(BOB, () => fails('EPERM', () => fs.unlinkSync(file)));
      as(BOB, () => fails('EPERM', () => fs.renameSync(file, join(dir, 'sticky/b'))));
      as(BOB, () => fs.mkdirSync(join(dir, 'sticky/bobs')));
      as(ALICE, () => fails('EPERM', () => fs.rmdirSync(join(dir, 'sticky/bobs'))));
      as(BOB, () => fs.writeFileSync(join(dir, 'sticky/over'), ''));
      as(BOB, () => fails('EPERM', () => fs.renameSync(join(dir, 'sticky/over'), file)));
      as(ALICE, () => fs.renameSync(file, join(dir, 'sticky/moved')));
      as(ALICE, () => fs.unlinkSync(join(dir, 'sticky/moved')));
      assert.deepEqual(fs.readdirSync(join(dir, 'sticky')).sort(), ['bobs', 'over']);
    },
    'a set-group-id directory gives its group to what is made in it'(dir) {
      as(BOB, () => {
        fs.writeFileSync(join(dir, 'setgid/file'), '');
        fs.mkdirSync(join(dir, 'setgid/sub'));
        fs.symlinkSync('x', join(dir, 'setgid/link'));
        fs.mkdirSync(join(dir, 'setgid/sub/below'));
      });
      for (const name of ['file', 'sub', 'link', 'sub/below']) {
        const made = fs.lstatSync(join(dir, 'setgid', name));
        assert.deepEqual([made.uid, made.gid], [BOB.uid, STAFF], name);
      }
      assert.equal(mode(join(dir, 'setgid/sub')), 0o2755);
      assert.equal(mode(join(dir, 'setgid/sub/below')), 0o2755);
      assert.equal(mode(join(dir, 'setgid/file')), 0o644);
    },
    'a set-group-id executable made by a stranger to the group loses the bit'(dir) {
      as(BOB, () =>
        withFile(join(dir, 'setgid/run'), fs.constants.O_CREAT | fs.constants.O_WRONLY, () => {}),
      );
      as(BOB, () => fs.closeSync(fs.openSync(join(dir, 'setgid/tool'), 'wx', 0o2775)));
      assert.equal(mode(join(dir, 'setgid/tool')), 0o755);
      as(inStaff, () => fs.closeSync(fs.openSync(join(dir, 'setgid/staffs'), 'wx', 0o2775)));
      assert.equal(mode(join(dir, 'setgid/staffs')), 0o2755);
    },
    'new objects belong to the caller, less the umask'(dir) {
      const at = (name: string) => join(dir, 'open', name);
      withUmask(0o027, () =>
        as(BOB, () => {
          fs.closeSync(fs.openSync(at('file'), 'wx', 0o777));
          fs.mkdirSync(at('dir'), 0o777);
        }),
      );
      withUmask(0o077, () =>
        tool('setpriv', '--reuid=4002', '--regid=4002', '--clear-groups', 'mkfifo', at('fifo')),
      );
      withUmask(0, () => as(BOB, () => fs.closeSync(fs.openSync(at('all'), 'wx', 0o666))));
      assert.equal(mode(at('file')), 0o750);
      assert.equal(mode(at('dir')), 0o750);
      assert.equal(mode(at('fifo')), 0o600);
      assert.equal(mode(at('all')), 0o666);
      for (const name of ['file', 'dir', 'fifo', 'all']) {
        const made = fs.lstatSync(at(name));
        assert.deepEqual([made.uid, made.gid], [BOB.uid, BOB.gid], name);
      }
    },
    'only the owner changes the mode, nobody but root the owner'(dir) {
      const file = join(dir, 'f');
      as(BOB, () => fails('EPERM', () => fs.chmodSync(file, 0o777)));
      as(BOB, () => fails('EPERM', () => fs.chownSync(file, BOB.uid, BOB.gid)));
      as(ALICE, () => fs.chmodSync(file, 0o640));
      assert.equal(mode(file), 0o640);
      as(ALICE, () => fails('EPERM', () => fs.chownSync(file, BOB.uid, ALICE.gid)));
      as(ALICE, () => fails('EPERM', () => fs.chownSync(file, ALICE.uid, STAFF)));
      as({ ...ALICE, groups: [STAFF] }, () => fs.chownSync(file, ALICE.uid, STAFF));
      assert.equal(fs.statSync(file).gid, STAFF);
      fs.chownSync(file, BOB.uid, BOB.gid);
      assert.deepEqual([fs.statSync(file).uid, fs.statSync(file).gid], [BOB.uid, BOB.gid]);
    },
    'set-group-id cannot be set by a stranger to the group'(dir) {
      const file = join(dir, 'staff');
      as(ALICE, () => fs.chmodSync(file, 0o2770));
      assert.equal(mode(file), 0o770);
      as({ ...ALICE, groups: [STAFF] }, () => fs.chmodSync(file, 0o2770));
      assert.equal(mode(file), 0o2770);
    },
    'the sticky bit of a file and the bits of a directory stay as set'(dir) {
      fs.chmodSync(join(dir, 'f'), 0o1644);
      assert.equal(mode(join(dir, 'f')), 0o1644);
      fs.chmodSync(join(dir, 'open'), 0o7777);
      assert.equal(mode(join(dir, 'open')), 0o7777);
      fs.chownSync(join(dir, 'open'), BOB.uid, STAFF);
      assert.equal(mode(join(dir, 'open')), 0o7777);
    },
    'a write by another than root ends set-user-id and set-group-id'(dir) {
      as(BOB, () => withFile(join(dir, 'suid'), 'r+', (fd) => fs.writeSync(fd, 'x')));
      assert.equal(mode(join(dir, 'suid')), 0o777);
      as(BOB, () => withFile(join(dir, 'sgid'), 'a', (fd) => fs.writeSync(fd, 'x')));
      assert.equal(mode(join(dir, 'sgid')), 0o777);
    },
    'a truncation by another than root ends set-user-id and set-group-id'(dir) {
      as(BOB, () => fs.truncateSync(join(dir, 'suid'), 3));
      assert.equal(mode(join(dir, 'suid')), 0o777);
      as(BOB, () => fs.closeSync(fs.openSync(join(dir, 'sgid'), 'w')));
      assert.equal(mode(join(dir, 'sgid')), 0o777);
    },
    'fallocate and copy_file_range by another than root end set-user-id'(dir) {
      as(BOB, () => withFile(join(dir, 'suid'), 'r+', (fd) => ok(fallocate(fd, 0, 0, 100))));
      assert.equal(mode(join(dir, 'suid')), 0o777);
      fs.chmodSync(join(dir, 'suid'), 0o4777);
      as(BOB, () =>
        withFile(join(dir, 'f'), 'r', (from) =>
          withFile(join(dir, 'suid'), 'r+', (to) => assert.equal(copyFileRange(from, 0, to, 0, 5), 5)),
        ),
      );
      assert.equal(mode(join(dir, 'suid')), 0o777);
    },
    'a chown that names nobody changes ctime, and ends set-user-id'(dir) {
      const nobody = -1 >>> 0;
      const before = fs.statSync(join(dir, 'suid'), { bigint: true });
      fs.chownSync(join(dir, 'suid'), nobody, nobody);
      const after = fs.statSync(join(dir, 'suid'), { bigint: true });
      assert.deepEqual([after.uid, after.gid, after.mtimeNs], [before.uid, before.gid, before.mtimeNs]);
      assert.equal(after.mode & 0o7777n, 0o777n);
      assert.ok(after.ctimeNs > before.ctimeNs);
    },
    'the end of set-user-id shows through a descriptor that is open'(dir) {
      withFile(join(dir, 'suid'), 'r', (reader) => {
        assert.equal(fs.fstatSync(reader).mode & 0o7777, 0o4777);
        as(BOB, () =>
          withFile(join(dir, 'suid'), 'r+', (fd) => {
            fs.writeSync(fd, 'x');
            assert.equal(fs.fstatSync(fd).mode & 0o7777, 0o777);
          }),
        );
        assert.equal(mode(join(dir, 'suid')), 0o777);
      });
    },
    'bits set while a writer has the file open end with its next write'(dir) {
      const file = join(dir, 'open/late');
      as(BOB, () => fs.writeFileSync(file, 'content'));
      as(BOB, () =>
        withFile(file, 'r+', (fd) => {
          fs.writeSync(fd, 'a');
          fs.chmodSync(file, 0o4755);
          assert.equal(mode(file), 0o4755);
          fs.writeSync(fd, 'b');
        }),
      );
      assert.equal(mode(file), 0o755);
    },
    'a change of owner ends set-user-id, also by root'(dir) {
      fs.chownSync(join(dir, 'suid'), BOB.uid, -1 >>> 0);
      assert.equal(mode(join(dir, 'suid')), 0o777);
      fs.chownSync(join(dir, 'sgid'), -1 >>> 0, BOB.gid);
      assert.equal(mode(join(dir, 'sgid')), 0o777);
    },
    'root writes and keeps the bits'(dir) {
      fs.appendFileSync(join(dir, 'suid'), 'x');
      fs.truncateSync(join(dir, 'sgid'), 1);
      assert.equal(mode(join(dir, 'suid')), 0o4777);
      assert.equal(mode(join(dir, 'sgid')), 0o2777);
    },
    'a set-user-id program runs as its owner'(dir) {
      const ran = spawnSync(
        'setpriv',
        ['--reuid=4002', '--regid=4002', '--clear-groups', join(dir, 'id'), '-u'],
        {
          encoding: 'utf8',
        },
      );
      assert.equal(ran.stdout.trim(), String(ALICE.uid), ran.stderr);
      fs.chmodSync(join(dir, 'id'), 0o644);
      fails('EACCES', () => tool(join(dir, 'id')));
    },
    'access(2) asks for the real user'(dir) {
      const test = (what: string, path: string) =>
        spawnSync('setpriv', ['--reuid=4002', '--regid=4002', '--clear-groups', 'test', what, path]).status;
      assert.equal(test('-r', join(dir, 'f')), 0);
      assert.equal(test('-w', join(dir, 'f')), 1);
      assert.equal(test('-x', join(dir, 'blind')), 0);
      assert.equal(test('-r', join(dir, 'blind')), 1);
    },
    'times: the owner sets any, a writer only now, a stranger none'(dir) {
      as(ALICE, () => fs.utimesSync(join(dir, 'f'), 1000, 2000));
      assert.equal(fs.statSync(join(dir, 'f')).mtimeMs, 2_000_000);
      as(BOB, () => fails('EPERM', () => fs.utimesSync(join(dir, 'sgid'), 1000, 2000)));
      as(BOB, () => tool('touch', join(dir, 'sgid')));
      as(BOB, () => fails('EPERM', () => fs.openSync(join(dir, 'f'), fs.constants.O_RDONLY | 0o1000000)));
    },
    'only root makes device nodes'(dir) {
      const made = spawnSync('setpriv', [
        '--reuid=4002',
        '--regid=4002',
        '--clear-groups',
        'mknod',
        join(dir, 'open/null'),
        'c',
        '1',
        '3',
      ]);
      assert.notEqual(made.status, 0);
      tool('mknod', join(dir, 'open/null'), 'c', '1', '3');
      fs.writeFileSync(join(dir, 'open/null'), 'gone');
      assert.equal(fs.readFileSync(join(dir, 'open/null')).length, 0);
    },
  },
};
