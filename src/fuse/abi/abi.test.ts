import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import * as constants from './constants.ts';
import * as layout from './layout.ts';

/** Layouts whose structure the installed header knows whole. */
const STRUCTURES: Record<string, Record<string, number>> = {
  fuse_in_header: layout.IN_HEADER,
  fuse_out_header: layout.OUT_HEADER,
  fuse_attr: layout.ATTR,
  fuse_entry_out: layout.ENTRY_OUT,
  fuse_attr_out: layout.ATTR_OUT,
  fuse_forget_in: layout.FORGET_IN,
  fuse_forget_one: layout.FORGET_ONE,
  fuse_batch_forget_in: layout.BATCH_FORGET_IN,
  fuse_getattr_in: layout.GETATTR_IN,
  fuse_mknod_in: layout.MKNOD_IN,
  fuse_mkdir_in: layout.MKDIR_IN,
  fuse_rename_in: layout.RENAME_IN,
  fuse_rename2_in: layout.RENAME2_IN,
  fuse_link_in: layout.LINK_IN,
  fuse_setattr_in: layout.SETATTR_IN,
  fuse_open_in: layout.OPEN_IN,
  fuse_create_in: layout.CREATE_IN,
  fuse_open_out: layout.OPEN_OUT,
  fuse_release_in: layout.RELEASE_IN,
  fuse_read_in: layout.READ_IN,
  fuse_write_in: layout.WRITE_IN,
  fuse_write_out: layout.WRITE_OUT,
  fuse_kstatfs: layout.KSTATFS,
  fuse_fsync_in: layout.FSYNC_IN,
  fuse_setxattr_in: layout.SETXATTR_IN,
  fuse_getxattr_in: layout.GETXATTR_IN,
  fuse_getxattr_out: layout.GETXATTR_OUT,
  fuse_init_in: layout.INIT_IN,
  fuse_init_out: layout.INIT_OUT,
  fuse_fallocate_in: layout.FALLOCATE_IN,
  fuse_lseek_in: layout.LSEEK_IN,
  fuse_lseek_out: layout.LSEEK_OUT,
  fuse_ioctl_in: layout.IOCTL_IN,
  fuse_ioctl_out: layout.IOCTL_OUT,
  fuse_copy_file_range_in: layout.COPY_FILE_RANGE_IN,
  fuse_dirent: layout.DIRENT,
  fuse_direntplus: layout.DIRENTPLUS,
  fuse_notify_inval_inode_out: layout.NOTIFY_INVAL_INODE_OUT,
  fuse_notify_inval_entry_out: layout.NOTIFY_INVAL_ENTRY_OUT,
  fuse_notify_delete_out: layout.NOTIFY_DELETE_OUT,
};

/** Fields that came after the header of Debian 12 (7.38); they lie where it has padding or unused words. */
const LATER = new Set(['backing_id', 'max_stack_depth']);
/** `size` is the structure's own size; the field size is written size_. */
const fieldName = (name: string): string => (name === 'size_' ? 'size' : name);
/** In direntplus the name is that of the dirent inside. */
const member = (structure: string, field: string): string =>
  structure === 'fuse_direntplus' && field === 'name' ? 'dirent.name' : field;

test('layouts and numbers agree with linux/fuse.h', () => {
  const dir = mkdtempSync(join(tmpdir(), 'strata-fuse-abi-'));
  try {
    const lines: string[] = [];
    for (const [structure, fields] of Object.entries(STRUCTURES)) {
      for (const [key, value] of Object.entries(fields)) {
        if (LATER.has(key)) continue;
        const real =
          key === 'size'
            ? `sizeof(struct ${structure})`
            : `offsetof(struct ${structure}, ${member(structure, fieldName(key))})`;
        lines.push(`check("${structure}.${key}", ${real}, ${value});`);
      }
    }
    const header = execFileSync('cat', ['/usr/include/linux/fuse.h'], { encoding: 'utf8' });
    const numbers: [string, Record<string, number>][] = [
      ['FUSE_', constants.FUSE_OPCODE],
      ['FUSE_', constants.FUSE_INIT],
      ['FOPEN_', constants.FOPEN],
      ['FATTR_', constants.FATTR],
      ['FUSE_NOTIFY_', constants.FUSE_NOTIFY],
    ];
    let compared = 0;
    for (const [prefix, table] of numbers) {
      for (const [name, value] of Object.entries(table)) {
        if (!new RegExp(`\\b${prefix}${name}\\b`).test(header)) continue;
        lines.push(`check("${prefix}${name}", (unsigned long)(${prefix}${name}), ${value >>> 0}ul);`);
        compared++;
      }
    }
    assert.ok(compared > 90, `${compared} numbers are in the header`);
    const source = `#include <linux/fuse.h>
#include <stddef.h>
#include <stdio.h>
static void check(const char *what, unsigned long real, unsigned long ours) {
  if (real != ours) printf("%s is %lu, not %lu\\n", what, real, ours);
}
int main(void) { ${lines.join('\n')} return 0; }`;
    writeFileSync(join(dir, 'abi.c'), source);
    execFileSync('gcc', ['-o', join(dir, 'abi'), join(dir, 'abi.c')]);
    assert.equal(execFileSync(join(dir, 'abi'), { encoding: 'utf8' }), '');
  } finally {
    rmSync(dir, { recursive: true, force: true });
  }
});
