"""Where inputs come from: fetched once by `prepare`, kept under `<storage>/inputs/<digest>/`, offline from then on."""
