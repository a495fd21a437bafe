import { type FileHandle, open, readdir, readFile, rename, rm, unlink } from "node:fs/promises";
import { dirname, join } from "node:path";
import { makeFolder } from "./folders.ts";

/** Called after each step that changed a disk; tests end the process there. */
export type OnEffect = (effect: string) => void;

/**
 * Replaces a file as a whole: whoever reads it sees the old content or the new one. With `durable` the new content is
 * on the disk when this resolves, so that not even a power cut takes it back.
 */
export async function replaceFile(
  path: string,
  content: string,
  options: { durable: boolean; onEffect: OnEffect },
): Promise<void> {
  const { durable, onEffect } = options;
  const folder = dirname(path);
  const temporary = `${path}.tmp`;
  try {
    const file = await openIn(folder, temporary);
    try {
      await file.writeFile(content);
      onEffect("write");
      if (durable) await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
    onEffect("rename");
    if (durable) await syncFolder(folder);
  } catch (error) {
    // What refused the file may refuse this as well: the first error is the one that tells.
    await rm(temporary, { force: true }).catch(() => undefined);
    throw error;
  }
}

/** Opens a file to be written; its folder is made if it is not there. */
async function openIn(folder: string, path: string): Promise<FileHandle> {
  try {
    return await open(path, "w", 0o600);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code !== "ENOENT" && code !== "ENOTDIR") throw error;
    await makeFolder(folder);
    return open(path, "w", 0o600);
  }
}

/** A file that is gone already is no error; nor is a folder that is none, in which no file can be. */
export async function removeFile(path: string, onEffect: OnEffect): Promise<void> {
  await unlink(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== "ENOENT" && error.code !== "ENOTDIR") throw error;
  });
  onEffect("remove");
}

/** undefined: there is no such file. */
export async function readIfThere(path: string): Promise<Buffer | undefined> {
  try {
    return await readFile(path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

/** Names in a folder; none when the folder does not exist, or is none. */
export async function namesIn(folder: string): Promise<string[]> {
  try {
    return await readdir(folder);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT" || code === "ENOTDIR") return [];
    throw error;
  }
}

/** Puts aside whatever is at a path, under the first free name `PATH.WHY-N`; returns that name, undefined if nothing was there. */
export async function setAside(path: string, why: string): Promise<string | undefined> {
  const taken = new Set((await namesIn(dirname(path))).map((name) => join(dirname(path), name)));
  let number = 1;
  while (taken.has(`${path}.${why}-${number}`)) number++;
  const aside = `${path}.${why}-${number}`;
  try {
    await rename(path, aside);
    return aside;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

/** A rename is on the disk once its folder is. */
async function syncFolder(folder: string): Promise<void> {
  const handle = await open(folder, "r");
  try {
    await handle.sync();
  } finally {
    await handle.close();
  }
}
