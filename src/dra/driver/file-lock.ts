import { type FileHandle, open } from "node:fs/promises";

/** Lets one process at a time do its work, for as long as it lives: the kernel unlocks what a killed one held. */
export interface FileLock {
  /** Waits for the lock, and holds it until `work` is over. */
  hold<T>(work: () => Promise<T>): Promise<T>;
}

/** Kept from the garbage collector, which would close them, and so unlock, while work that nothing refers to is under way. */
const held = new Set<FileHandle>();
const exclusive = 2;
const interrupted = 4;

/** `flock(2)` on the file, which is made if need be; its folder must exist. Node knows no such call, so it is made by FFI. */
export async function openFileLock(path: string): Promise<FileLock> {
  const { default: koffi } = await import("koffi");
  const flock = koffi.load(null).func("int flock(int fd, int operation)");
  // On a thread of its own: another process may hold the lock for long. Resolves with the error's number, 0 if there is none.
  const lock = (fd: number): Promise<number> =>
    new Promise((resolve, reject) =>
      flock.async(fd, exclusive, (error: Error | null, result: number) =>
        error === null ? resolve(result === 0 ? 0 : koffi.errno()) : reject(error),
      ),
    );
  return {
    async hold(work) {
      const file = await open(path, "a", 0o600);
      held.add(file);
      try {
        let error = await lock(file.fd);
        while (error === interrupted) error = await lock(file.fd);
        if (error !== 0) throw new Error(`lock ${path}: flock failed with error ${error}`);
        return await work();
      } finally {
        // Unlocks as well: nobody else has this descriptor.
        held.delete(file);
        await file.close();
      }
    },
  };
}
