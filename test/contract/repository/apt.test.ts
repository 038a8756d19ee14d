/** The suite over kind apt: the host's apt reads a small archive of ours. */
import { tinyArchive } from './packages.ts';
import { testRepositoryKind } from './suite.ts';

testRepositoryKind({
  kind: 'apt',
  onDemand: true,
  open() {
    const archive = tinyArchive();
    return {
      source: 'apt:tiny',
      async publish(packages) {
        archive.add(packages);
        archive.publish();
        archive.update();
      },
      close: archive.close,
    };
  },
});
