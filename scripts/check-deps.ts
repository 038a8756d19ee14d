/**
 * Checks the dependency direction of src/: each folder's DEPS.list names the folders it may import (one a line,
 * '#' begins a comment; `node:NAME` and package names are listed too when they are restricted). Imports across folders go through the other folder's
 * index.ts or contract.ts. Exits 1 and lists every breach.
 */
import { existsSync, globSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';

const root = resolve(import.meta.dirname, '../src');
const ONLY: Record<string, string[]> = {
  koffi: ['sys'],
  'node:sqlite': ['fleet', 'scan'],
  fastify: ['daemon'],
  commander: ['cli'],
};
const breaches: string[] = [];

for (const folder of readdirSync(root).filter((f) => statSync(join(root, f)).isDirectory())) {
  const files = globSync('**/*.ts', { cwd: join(root, folder) });
  if (files.length === 0) continue;
  const listFile = join(root, folder, 'DEPS.list');
  if (!existsSync(listFile)) {
    breaches.push(`${folder}: no DEPS.list`);
    continue;
  }
  const allowed = new Set(
    readFileSync(listFile, 'utf8')
      .split('\n')
      .map((line) => line.replace(/#.*/, '').trim())
      .filter(Boolean),
  );
  for (const file of files) {
    const path = join(root, folder, file);
    const isTest = file.endsWith('.test.ts') || file.includes('test-support');
    for (const [, spec] of readFileSync(path, 'utf8').matchAll(/(?:from|import)\s*\(?\s*'([^']+)'/g)) {
      if (!spec!.startsWith('.')) {
        for (const [name, rooms] of Object.entries(ONLY)) {
          if ((spec === name || spec!.startsWith(`${name}/`)) && !rooms.includes(folder) && !isTest)
            breaches.push(`${folder}/${file}: only ${rooms.join(', ')} may import ${name}`);
        }
        continue;
      }
      const target = relative(root, resolve(dirname(path), spec!));
      const other = target.split('/')[0]!;
      if (target.startsWith('..') || other === folder) continue;
      if (!allowed.has(other) && !isTest)
        breaches.push(`${folder}/${file}: imports ${other}, which ${folder}/DEPS.list does not allow`);
      const face = target.split('/').slice(1).join('/');
      if (!isTest && !['index.ts', 'contract.ts'].includes(face))
        breaches.push(
          `${folder}/${file}: imports ${target}, which is not the face (index.ts or contract.ts) of ${other}`,
        );
    }
  }
}
for (const breach of breaches) console.error(breach);
console.log(
  breaches.length === 0 ? 'dependency rules: no breach' : `dependency rules: ${breaches.length} breaches`,
);
process.exitCode = breaches.length === 0 ? 0 : 1;
