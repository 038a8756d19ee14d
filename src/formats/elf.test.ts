/** ELF dynamic sections: readelf is the oracle; truncated and altered files never crash. */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, realpathSync } from 'node:fs';
import { test } from 'node:test';
import { FormatError } from '../base/index.ts';
import { type ElfDynamic, parseElfDynamic } from './elf.ts';

function parse(bytes: Buffer): ElfDynamic | null {
  return parseElfDynamic((offset, length) => bytes.subarray(offset, offset + length));
}

const CANDIDATES = [
  '/bin/ls',
  '/usr/bin/perl',
  process.execPath,
  '/usr/lib/x86_64-linux-gnu/libc.so.6',
  '/usr/lib/x86_64-linux-gnu/libz.so.1',
  '/usr/lib/x86_64-linux-gnu/libstdc++.so.6',
  '/usr/lib/aarch64-linux-gnu/libc.so.6',
  '/sbin/ldconfig',
];
const files = [...new Set(CANDIDATES.filter((f) => existsSync(f)).map((f) => realpathSync(f)))];

test('NEEDED and SONAME are those that readelf prints', () => {
  assert.ok(files.length >= 3);
  for (const file of files) {
    const printed = execFileSync('readelf', ['-dW', file], {
      encoding: 'latin1',
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    const needed = [...printed.matchAll(/\(NEEDED\).*\[(.*)\]/g)].map((m) => m[1]!);
    const soname = /\(SONAME\).*\[(.*)\]/.exec(printed)?.[1] ?? null;
    const found = parse(readFileSync(file));
    assert.deepEqual(found?.needed ?? [], needed, file);
    assert.equal(found?.soname ?? null, soname, file);
  }
});

test('what is not a dynamic ELF file is null', () => {
  assert.equal(parse(Buffer.alloc(0)), null);
  assert.equal(parse(Buffer.from('#!/bin/sh\n')), null);
  assert.equal(parse(Buffer.from('\x7fELF')), null);
});

test('truncated and altered files give null or a FormatError', () => {
  const whole = readFileSync(realpathSync('/bin/ls'));
  const attempt = (bytes: Buffer): void => {
    try {
      parse(bytes);
    } catch (error) {
      assert.ok(error instanceof FormatError, String(error));
    }
  };
  for (let length = 0; length < 2048; length++) attempt(whole.subarray(0, length));
  for (let length = 2048; length < whole.length; length += 97) attempt(whole.subarray(0, length));
  const header = Buffer.from(whole);
  for (let i = 0; i < 1024; i++) {
    for (const value of [0x00, 0xff, whole[i]! ^ 0x80]) {
      header[i] = value;
      attempt(header);
    }
    header[i] = whole[i]!;
  }
});
