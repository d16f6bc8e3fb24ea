"""Regularizers: differentiable terms of the loss, written as coefficients of features in signal.coef."""

from entjax.regularizers.aepo import aepo
from entjax.regularizers.dsdr_local import dsdr_local
from entjax.regularizers.entropic import entropic
from entjax.regularizers.entropy import entropy
from entjax.regularizers.epo import epo
from entjax.regularizers.epo_released import epo_released
from entjax.regularizers.full_kl import full_kl
from entjax.regularizers.kl import kl
from entjax.regularizers.kl_cov import kl_cov
from entjax.regularizers.lp_reg import lp_reg
from entjax.regularizers.safe import safe, soft_min
from entjax.regularizers.safe_controller import asymmetric_controller, safe_controller
from entjax.regularizers.siren import siren
from entjax.regularizers.targeted_entropy import targeted_entropy
from entjax.regularizers.tea import tea

__all__ = [
    "aepo",
    "asymmetric_controller",
    "dsdr_local",
    "entropic",
    "entropy",
    "epo",
    "epo_released",
    "full_kl",
    "kl",
    "kl_cov",
    "lp_reg",
    "safe",
    "safe_controller",
    "siren",
    "soft_min",
    "targeted_entropy",
    "tea",
]
