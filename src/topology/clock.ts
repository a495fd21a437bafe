/** Counts changes of the model. */
export interface ChangeClock {
  readonly version: number;
  readonly capacityVersion: number;
  /** One more change; `freed`: something became free or was added. */
  tick(freed: boolean): void;
}

export function createChangeClock(): ChangeClock {
  let version = 0;
  let capacityVersion = 0;
  return {
    get version() {
      return version;
    },
    get capacityVersion() {
      return capacityVersion;
    },
    tick(freed) {
      version++;
      if (freed) capacityVersion++;
    },
  };
}
