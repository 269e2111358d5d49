//! What was asked and what came of it: the closed lists that records, errno and exit codes share.

use serde::{Deserialize, Serialize};

/// A closed list of words: an enum whose variants are written and read as the word beside each.
macro_rules! words {
    ($(#[$of_list:meta])* $name:ident { $($(#[$of_word:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$of_list])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$of_word])* #[serde(rename = $word)] $variant,)+
        }

        impl $name {
            /// The word, as records and `--json` write it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }
    };
}

words! {
    /// What was asked.
    #[allow(missing_docs, reason = "each is the word itself")]
    Operation {
        Lookup = "lookup",
        Stat = "stat",
        List = "list",
        Readlink = "readlink",
        Getxattr = "getxattr",
        Access = "access",
        Open = "open",
        Read = "read",
        Get = "get",
        Put = "put",
        Promote = "promote",
        Rollback = "rollback",
        Revoke = "revoke",
        Delete = "delete",
        Undelete = "undelete",
        Destroy = "destroy",
        Reload = "reload",
        Refresh = "refresh",
        Backup = "backup",
        Restore = "restore",
        Rekey = "rekey",
        Start = "start",
        Stop = "stop",
        Rotate = "rotate",
        Checkpoint = "checkpoint",
        Seal = "seal",
        Login = "login",
        Mint = "mint",
        Renew = "renew",
    }
}

words! {
    /// What came of it. Each has its errno (`fuse::errno`) and its exit code (`cli::exit`).
    Outcome {
        /// Bytes were handed over.
        Released = "released",
        /// It does not exist for this caller.
        Hidden = "hidden",
        /// Visible = "visible", but not to be read.
        Denied = "denied",
        /// No record could be written.
        NoAudit = "no_audit",
        /// The deadline passed.
        Timeout = "timeout",
        /// The store cannot be reached.
        StoreAway = "store_away",
        /// The store refused our login.
        StoreRefused = "store_refused",
        /// The store is sealed.
        Sealed = "sealed",
        /// The version's bytes are gone.
        Destroyed = "destroyed",
        /// The version is revoked.
        Revoked = "revoked",
        /// The version lost its stage longer ago than `retire_after`.
        Retired = "retired",
        /// The daemon asked itself.
        SelfAccess = "self_access",
        /// A limit was reached.
        OverLimit = "over_limit",
        /// An administrative act was done.
        Done = "done",
        /// Something broke: a damaged value, a fault of our own.
        Failed = "failed",
    }
}

words! {
    /// Why, as a code: a closed list, never free text.
    #[allow(missing_docs, reason = "each is the word itself")]
    Reason {
        NoGrant = "no_grant",
        NoReadGrant = "no_read_grant",
        StageNotGranted = "stage_not_granted",
        FieldNotGranted = "field_not_granted",
        FactUnknown = "fact_unknown",
        RootWithoutGrant = "root_without_grant",
        PolicyChanged = "policy_changed",
        CallerChanged = "caller_changed",
        RateLimit = "rate_limit",
        ProcessTooOld = "process_too_old",
        InFlight = "in_flight",
        Corrupt = "corrupt",
        WrongKey = "wrong_key",
        Panic = "panic",
        Deadline = "deadline",
        Compromised = "compromised",
        Superseded = "superseded",
        Error = "error",
        Drill = "drill",
        Signal = "signal",
        Command = "command",
        Size = "size",
        Age = "age",
        Shutdown = "shutdown",
        NotFound = "not_found",
        Exists = "exists",
        Refused = "refused",
        LogReplaced = "log_replaced",
        ConsumerGone = "consumer_gone",
        NoLogin = "no_login",
    }
}
