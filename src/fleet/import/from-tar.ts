/** A tar archive becomes the tree of a base, exactly as it is in the archive: no merged /usr, owners by number. Hostile archives are refused (readTar, openTreeWriter). */
import { createReadStream } from 'node:fs';
import { basename } from 'node:path';
import { type Name, type Progress, StrataError } from '../../base/index.ts';
import { decompress, readTar } from '../../formats/index.ts';
import { openTreeWriter, type TreeEntry, type TreeWriter } from '../../layer/index.ts';
import * as sys from '../../sys/index.ts';
import { latin1, openDirectory } from '../merge-layers/untrusted-tree.ts';

const SPECIAL: Record<string, number> = { char: sys.S_IFCHR, block: sys.S_IFBLK, fifo: sys.S_IFIFO };
/** Entries between two reports. */
const REPORT = 4096;

/** Unpacks `file` into the empty directory `tree`; the entries for its index. Throws FormatError (BAD_FORMAT), LIMIT, IO, NO_SPACE. */
export async function unpackTar(file: string, tree: string, progress: Progress): Promise<TreeEntry[]> {
  const label = basename(file);
  const rootFd = openDirectory(sys.AT_FDCWD, latin1(tree));
  const writer = openTreeWriter({ rootFd, label });
  try {
    const source = createReadStream(file, { highWaterMark: 1 << 18 });
    for await (const { entry, data } of readTar(decompress(source, { format: label }), { format: label })) {
      await put(writer, entry, data);
      if (writer.entries.size % REPORT === 0)
        progress({
          phase: 'import',
          message: `${writer.entries.size} entries`,
          doneBytes: writer.totalBytes,
        });
    }
    if (writer.entries.size === 0) throw new StrataError('BAD_FORMAT', `${label} holds nothing`);
    return writer.finish();
  } finally {
    writer.close();
    sys.close(rootFd);
  }
}

type Item = ReturnType<typeof readTar> extends AsyncGenerator<infer I> ? I : never;

async function put(writer: TreeWriter, entry: Item['entry'], data: Item['data']): Promise<void> {
  const { path, mode, uid, gid, mtimeSec, mtimeNsec, xattrs } = entry;
  const attributes = { mode, uid, gid, mtimeSec, mtimeNsec, ...(xattrs === undefined ? {} : { xattrs }) };
  // An archive that was appended to holds a name twice: the later entry counts, as with tar.
  if (entry.type !== 'directory' && entry.linkTarget !== path) dropEarlier(writer, path);
  switch (entry.type) {
    case 'directory':
      writer.directory(path, attributes);
      return;
    case 'file': {
      const { sizeBytes, sparse } = entry;
      await writer.file(path, attributes, { sizeBytes, data, ...(sparse === undefined ? {} : { sparse }) });
      return;
    }
    case 'symlink':
      writer.symlink(path, attributes, entry.linkTarget!);
      return;
    case 'hardlink':
      if (entry.linkTarget !== path) writer.hardLink(path, entry.linkTarget!);
      return;
    default: {
      const rdev = entry.type === 'fifo' ? 0 : sys.encodeDev(entry.devMajor ?? 0, entry.devMinor ?? 0);
      writer.special(path, attributes, SPECIAL[entry.type]!, rdev);
    }
  }
}

function dropEarlier(writer: TreeWriter, path: Name): void {
  const known = writer.entries.get(path);
  if (known !== undefined && (known.mode & sys.S_IFMT) !== sys.S_IFDIR) writer.remove(path);
}
