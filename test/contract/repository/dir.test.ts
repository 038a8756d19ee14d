/** The suite over kind dir. */
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { importDeb } from '../../../src/layer/index.ts';
import { makeDeb, temporaryDirectory } from './packages.ts';
import { testRepositoryKind } from './suite.ts';

testRepositoryKind({
  kind: 'dir',
  onDemand: false,
  open() {
    const dir = temporaryDirectory();
    const source = join(dir, 'layers');
    mkdirSync(source);
    return {
      source,
      async publish(packages) {
        for (const p of packages) await importDeb(makeDeb(dir, p), { repoDir: source, durable: false });
      },
      close: () => rmSync(dir, { recursive: true, force: true }),
    };
  },
});
